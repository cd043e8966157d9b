"""Logs of runs: one an attempt, whoever computes, found by `ppfl log`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ppfl.cli import main
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.config.run import Config
from ppfl.jobs.attempt import Caller
from ppfl.jobs.failures import Failure, write_failure
from ppfl.jobs.run_log import KEPT_TRIES, RunLog, tries
from ppfl.jobs.states import results_in
from ppfl.pack.cells import make_work
from ppfl.pack.run_queue import RunOfCell
from ppfl.results.layout import log_folder, running_path
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.test_stop import GRID, TINY


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "grid.yaml").write_text(GRID)
    return tmp_path


@pytest.fixture
def config(folder: Path) -> Config:
    return next(iter(load_cells(folder / "tiny.yaml").values())).config


def ppfl(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False, prog_name="ppfl")


def compute(config: Config, out: Path, stop_at: int | None = None) -> str:
    done = [0]
    caller = Caller("seed=0", lambda: done[0] == stop_at, lambda number: done.__setitem__(0, number))
    return run(config, out, Silent(), SoloCommunicator(), caller=caller)


def test_every_attempt_has_a_log_that_says_what_it_is_and_how_far_it_came(config: Config) -> None:
    out = config.default_out()
    assert compute(config, out, stop_at=2) == "stopped"
    assert compute(config, out) == "complete"
    first, second = (path.read_text() for path in tries(out).values())
    assert f"try 1 at {config.digest} (seed=0), " in first
    assert "stopped after" in first
    assert "goes on at round 2 of 6" in second
    assert "complete after" in second
    done = ppfl("log", "tiny.yaml")
    assert (done.exit_code, done.stdout) == (0, second)
    assert f"try 2 of 1, 2: {tries(out)[2]}" in done.stderr
    assert ppfl("log", str(out), "--try", "1").stdout == first
    assert ppfl("log", config.digest[:5]).stdout == second
    assert ppfl("log", config.digest[:5], "--results", "results/tiny").stdout == second


def test_a_run_of_a_grid_is_chosen_by_its_digest(folder: Path) -> None:
    digest, cell = list(load_cells("grid.yaml").items())[2]
    compute(cell.config, cell.config.default_out())
    assert digest in ppfl("log", "grid.yaml", "--cell", digest[:4]).stdout


def test_the_log_of_a_run_under_snakemake_lies_where_its_result_will(config: Config) -> None:
    final = config.default_out()
    compute(config, final.parent / "running" / final.name)
    assert [path.parent for path in tries(final).values()] == [final.parent / "logs" / config.digest]
    assert "complete after" in ppfl("log", "tiny.yaml").stdout


def test_runs_that_a_pack_computes_together_have_logs(folder: Path) -> None:
    cells = load_cells("grid.yaml")
    runs = [RunOfCell(cell.config, cell.config.default_out(), str(cell)) for cell in cells.values()]
    assert set(make_work()(runs)) == {"complete"}
    for one in runs:
        (log,) = tries(one.out).values()
        assert "computed together with 3 other runs\nppfl: complete\n" in log.read_text()


def test_a_failure_stands_in_the_log(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("something broke")

    monkeypatch.setattr("ppfl.runs.experiment.final_stages", fail)
    with pytest.raises(RuntimeError):
        compute(config, config.default_out())
    done = ppfl("log", "tiny.yaml")
    assert "failed: RuntimeError: something broke\nTraceback" in done.stdout
    assert "ppfl: failed: RuntimeError: something broke (rank 0 on" in done.stderr


def test_what_a_killed_process_could_not_say_is_told_from_its_note(config: Config) -> None:
    out = config.default_out()
    log = RunLog(out)
    log.write("ppfl: round 3\n")
    log.close()
    write_failure(out, Failure(digest=config.digest, reason="killed by SIGKILL", rank=1, round=3, host="n7"))
    done = ppfl("log", "tiny.yaml")
    assert done.stdout == "ppfl: round 3\n"
    assert "failed: killed by SIGKILL (rank 1 on n7, round 3, " in done.stderr


def test_a_log_is_followed_while_somebody_is_at_work(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    out = config.default_out()
    log = RunLog(out)
    log.write("first\n")
    running_path(out).write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x", "updated": time.time()}))
    steps = [lambda: log.write("second\n"), lambda: (log.write("third\n"), running_path(out).unlink())]
    monkeypatch.setattr("ppfl.attempts.log.time.sleep", lambda _: steps.pop(0)())
    assert ppfl("log", "tiny.yaml", "--follow").stdout == "first\nsecond\nthird\n"
    log.close()


def test_the_last_attempts_are_kept(folder: Path) -> None:
    for _ in range(KEPT_TRIES + 3):
        RunLog(folder / "x.h5").close()
    assert list(tries(folder / "x.h5")) == list(range(4, KEPT_TRIES + 4))


def test_a_disk_that_refuses_a_log_does_not_end_a_run(config: Config) -> None:
    out = config.default_out()
    log_folder(out).parent.parent.mkdir(parents=True)
    log_folder(out).parent.write_text("in the way")
    assert compute(config, out) == "complete"


def test_readers_of_a_folder_see_no_results_in_logs(config: Config) -> None:
    out = config.default_out()
    compute(config, out)
    assert results_in(out.parent) == [out]
    assert ppfl("status", "results/tiny").stdout == "1 runs: 1 done (results/tiny)\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tiny.yaml"], "no attempt at this run has left a log"),
        (["grid.yaml"], "--cell: needed, since the file is a grid"),
        (["abc"], "abc: no log of such a run in results; give a result, a configuration or a digest, and --results"),
        (["nothing.yaml"], "nothing.yaml: cannot be read"),
        (["x.h5", "--cell", "a"], "x.h5: --cell, --set and --results are for a configuration file"),
    ],
)
def test_mistakes(arguments: list[str], complaint: str) -> None:
    done = ppfl("log", *arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert complaint in done.stderr


def test_a_try_that_is_not_there(config: Config) -> None:
    RunLog(config.default_out()).close()
    done = ppfl("log", "tiny.yaml", "--try", "2")
    assert (done.exit_code, done.stderr) == (2, "ppfl: error: --try 2: no such log; there are 1\n")


def test_a_digest_of_several_runs(folder: Path) -> None:
    for name in ("ab1", "ab2"):
        RunLog(folder / "results" / "x" / f"{name}.h5").close()
    done = ppfl("log", "ab")
    assert done.exit_code == 2
    assert "ab: several runs: results/x/logs/ab1, results/x/logs/ab2 in results" in done.stderr
