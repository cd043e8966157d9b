"""Requests to stop: a run and a pack heed those that are meant for them, and no others."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ppfl.cli import main
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.config.run import Config
from ppfl.jobs import stop_requests
from ppfl.jobs.attempt import Caller
from ppfl.jobs.stop_requests import PackRequests, StopRequest, ask_packs, ask_run, request_for
from ppfl.jobs.stopping import ON_REQUEST, STOPPED, STOPPED_ON_REQUEST
from ppfl.pack.command import Packed
from ppfl.pack.run_queue import ELSEWHERE, ONE_RANK, RunQueue
from ppfl.results.layout import apart_path, checkpoint_path, packs_stop_path, running_path, stop_path
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.mpi.test_same_bits import arrays

TINY = """
name: tiny
rounds: 6
precision: float64
problem: {name: quadratic, generator: comparison, zeta: 1, clients: 4, rows: 60}
algorithm: {name: ffgg, lr: theory, fine_tuner: {name: conjugate_gradient, steps: 2, start: redraw}}
evaluate: {every: 2}
"""
GRID = TINY + "grid: {seed: [0, 1, 2, 3]}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder; runs look for requests after every round."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stop_requests, "_LOOK_SECONDS", 0.0)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "grid.yaml").write_text(GRID)
    return tmp_path


@pytest.fixture
def config(folder: Path) -> Config:
    return next(iter(load_cells(folder / "tiny.yaml").values())).config


def compute(
    config: Config, out: Path, *, asks: tuple[str, ...] = (), at: int = 3, requeue: bool = False, delivers: bool = False
) -> str:
    """Run, and at a round ask by `ppfl stop ASKS` for its end."""

    def told(done: int) -> None:
        if asks and done == at:
            ppfl("stop", *asks, "--wait", "0", *(["--requeue"] if requeue else []))

    return run(config, out, Silent(), SoloCommunicator(), caller=Caller(told=told, delivers=delivers))


def ppfl(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False, prog_name="ppfl")


@pytest.mark.parametrize("how", ["result", "configuration", "folder", "folder above", "cell"])
def test_a_run_is_stopped_with_everything_saved_and_goes_on_to_the_same_bytes(
    folder: Path, config: Config, how: str
) -> None:
    out = config.default_out()
    target = {
        "result": (str(out),), "configuration": ("tiny.yaml",), "folder": (str(out.parent),),
        "folder above": ("results",), "cell": ("tiny.yaml", "--cell", config.digest[:6]),
    }  # fmt: skip
    assert compute(config, out, asks=target[how]) == ON_REQUEST
    assert json.loads((checkpoint_path(out) / "current.json").read_text())["round"] == 3
    assert compute(config, out) == "complete"
    assert not stop_path(out).exists()
    run(config, folder / "alone.h5", Silent(), SoloCommunicator())
    alone = arrays(folder / "alone.h5")
    for name, values in arrays(out).items():
        np.testing.assert_array_equal(values, alone[name])


def test_a_run_under_snakemake_is_found_where_it_is_computed(config: Config) -> None:
    out = config.default_out()
    assert compute(config, out, asks=("tiny.yaml",), delivers=True) == ON_REQUEST
    assert checkpoint_path(apart_path(out)).exists()
    assert compute(config, out, asks=(str(apart_path(out)),), at=5, delivers=True) == ON_REQUEST


def test_requeue_ends_a_run_as_a_signal_does(config: Config) -> None:
    assert compute(config, config.default_out(), asks=("tiny.yaml",), requeue=True) == "stopped"


def test_a_request_is_for_one_attempt(config: Config) -> None:
    out = config.default_out()
    out.parent.mkdir(parents=True)

    def told(done: int) -> None:
        if done == 1:
            ask_run(out, token="another", job="", requeue=False)

    assert run(config, out, Silent(), SoloCommunicator(), caller=Caller(told=told)) == "complete"


def test_a_request_that_comes_while_a_run_begins_is_heeded(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    out = config.default_out()

    def remove_failure(_: Path) -> None:
        """Do what `ppfl stop` does between the claim and the first round."""
        ask_run(out, token=json.loads(running_path(out).read_text())["token"], job="", requeue=False)

    monkeypatch.setattr("ppfl.jobs.attempt.remove_failure", remove_failure)
    assert compute(config, out) == ON_REQUEST


def test_requests_that_cannot_be_read_or_removed_keep_nobody_from_the_run(config: Config) -> None:
    """As those of another user in a folder like /tmp; here they are folders, a pipe for the packs."""
    out = config.default_out()
    stop_path(out).mkdir(parents=True)
    os.mkfifo(packs_stop_path(out.parent))
    os.utime(packs_stop_path(out.parent), (1, 1))
    assert compute(config, out) == "complete"
    assert not PackRequests(out.parent, 1.0)()
    packs_stop_path(out.parent).unlink()
    packs_stop_path(out.parent).mkdir()
    os.utime(packs_stop_path(out.parent), (1, 1))
    assert not PackRequests(out.parent, time.time())()


@pytest.mark.parametrize("text", ["", "[]", '{"token": [1]}', "\0"])
def test_a_request_that_makes_no_sense_is_none(config: Config, text: str) -> None:
    out = config.default_out()

    def told(done: int) -> None:
        if done == 1:
            stop_path(out).write_text(text)

    assert run(config, out, Silent(), SoloCommunicator(), caller=Caller(told=told)) == "complete"


def test_what_is_told(config: Config) -> None:
    out = config.default_out()
    said: list[str] = []

    def told(done: int) -> None:
        if done == 2:
            said.append(ppfl("stop", "tiny.yaml", "--wait", "0").stdout)

    run(config, out, Silent(), SoloCommunicator(), caller=Caller(told=told))
    assert f"{out}: asked to stop (process {os.getpid()} on" in said[0]
    assert f"{out}: asked, and still computing" in said[0]
    done = ppfl("stop", "tiny.yaml")
    assert (done.exit_code, done.stdout) == (0, "nobody is at work on that\n")


def test_a_run_that_still_computes_is_no_success(config: Config) -> None:
    codes: list[int] = []

    def told(done: int) -> None:
        if done == 2:
            codes.append(ppfl("stop", "tiny.yaml", "--wait", "0").exit_code)

    run(config, config.default_out(), Silent(), SoloCommunicator(), caller=Caller(told=told))
    assert codes == [1]


def test_exit_code_of_a_run(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppfl.runs.experiment.run", lambda *_, **__: ON_REQUEST)
    assert ppfl("run", "tiny.yaml").exit_code == STOPPED_ON_REQUEST
    monkeypatch.setattr("ppfl.runs.experiment.run", lambda *_, **__: "stopped")
    assert ppfl("run", "tiny.yaml").exit_code == STOPPED


@pytest.mark.parametrize(
    ("counts", "asked", "code"),
    [
        ({"complete": 2}, False, 0),
        ({"complete": 1, "failed": 1}, False, 1),
        ({"complete": 1, ELSEWHERE: 1}, False, 0),
        ({"stopped": 1, "left": 1}, False, STOPPED),
        ({"stopped": 1, "left": 1}, True, STOPPED_ON_REQUEST),
        ({"complete": 1, ON_REQUEST: 1}, False, STOPPED_ON_REQUEST),
        ({"left": 1, ON_REQUEST: 1}, False, STOPPED),
    ],
)
def test_exit_code_of_a_pack(counts: dict[str, int], asked: bool, code: int) -> None:
    assert Packed(Counter(counts), asked).exit_code == code


def test_packs_heed_requests_that_came_after_they_began(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for job in ("", "12", "13"):
        ask_packs(folder, requeue=False, job=job)
        written = packs_stop_path(folder, job).stat().st_mtime
        assert PackRequests(folder, written)() == (job != "13")
        assert not PackRequests(folder, written + 1)()
        packs_stop_path(folder, job).unlink()


def test_a_pack_removes_a_request_that_is_long_over(folder: Path) -> None:
    ask_packs(folder, requeue=True)
    written = packs_stop_path(folder).stat().st_mtime
    PackRequests(folder, written + 59)
    assert packs_stop_path(folder).exists()
    PackRequests(folder, written + 61)
    assert not packs_stop_path(folder).exists()


def test_a_pack_that_is_asked_begins_no_run_and_is_not_to_come_back(folder: Path) -> None:
    """A request from the future stands for one that comes right after the pack has begun."""
    (folder / "results" / "tiny").mkdir(parents=True)
    ask_packs(folder / "results" / "tiny", requeue=False)
    later = packs_stop_path(folder / "results" / "tiny").stat().st_mtime + 1000
    os.utime(packs_stop_path(folder / "results" / "tiny"), (later, later))
    done = ppfl("pack", "grid.yaml")
    assert (done.exit_code, done.stdout) == (STOPPED_ON_REQUEST, "4 left: results/tiny\n")
    ask_packs(folder / "results" / "tiny", requeue=True)
    os.utime(packs_stop_path(folder / "results" / "tiny"), (later, later))
    assert ppfl("pack", "grid.yaml").exit_code == STOPPED


def stopped_run(config: Config, job: str = "") -> StopRequest:
    """Leave what a run that was stopped on request leaves."""
    out = config.default_out()
    assert compute(config, out, asks=(str(out),)) == ON_REQUEST
    ask_run(out, token="gone", job=job, requeue=False)
    found = request_for(out)
    assert found is not None
    return found


def test_no_pack_that_began_before_takes_a_run_that_was_stopped(config: Config) -> None:
    cells, out = load_cells("tiny.yaml"), config.default_out()
    stopped_run(config)
    began_at = stop_path(out).stat().st_mtime
    queue = RunQueue(cells, out.parent, 1, 0.0, ONE_RANK, began_at=began_at)
    assert queue.counts == {ON_REQUEST: 1}
    assert queue.is_exhausted()
    queue = RunQueue(cells, out.parent, 1, 0.0, ONE_RANK, began_at=began_at + 1)
    assert queue.left == [config.digest]


def test_no_later_start_of_the_same_job_does(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, out = load_cells("tiny.yaml"), config.default_out()
    stopped_run(config, job="12")
    later = stop_path(out).stat().st_mtime + 1
    for job, left in (("12", []), ("13", [config.digest])):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        assert RunQueue(cells, out.parent, 1, 0.0, ONE_RANK, began_at=later).left == left


def test_a_pack_that_does_not_wait_leaves_what_others_are_at(folder: Path) -> None:
    cells = load_cells("grid.yaml")
    place = folder / "results" / "tiny"
    place.mkdir(parents=True)
    held = running_path(place / f"{next(iter(cells))}.h5")
    held.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x", "updated": time.time()}))
    done = ppfl("pack", "grid.yaml", "--no-wait", "--jobs", "1")
    assert (done.exit_code, done.stdout) == (0, f"1 {ELSEWHERE}, 3 complete: results/tiny\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nothing.yaml"], "nothing.yaml: cannot be read"),
        (["results.h5", "--cell", "a"], "results.h5: --cell, --set and --results are for a configuration file"),
        (["12", "--set", "seed=1"], "12: --cell, --set and --results are for a configuration file"),
        (["grid.yaml", "--cell", "x"], "--cell: no such run (given 'x')"),
    ],
)
def test_mistakes(arguments: list[str], complaint: str) -> None:
    done = ppfl("stop", *arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert complaint in done.stderr


def test_where_there_is_no_slurm_a_job_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    done = ppfl("stop", "12")
    assert (done.exit_code, done.stderr) == (
        2, "ppfl: error: 12: no squeue here to ask; give a result, a folder or a configuration\n"
    )  # fmt: skip


def test_a_folder_that_refuses_a_request_is_named(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    out = config.default_out()
    out.parent.mkdir(parents=True)
    stop_path(out).mkdir()
    running_path(out).write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x", "updated": time.time()}))
    done = ppfl("stop", str(out))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert f"{stop_path(out)}: cannot be written, so nobody can be asked to stop" in done.stderr


def test_a_queue_that_refuses_is_told_and_folders_may_have_any_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (
        ("squeue", "printf '12|PENDING|/tmp/\\377\\n'"),
        ("scancel", "echo scancel: error: access denied >&2; exit 1"),
    ):
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    done = ppfl("stop", "12", "--wait", "0")
    assert done.exit_code == 1
    assert done.stdout == "job 12: what waits in the queue stays there: scancel: error: access denied\n"
