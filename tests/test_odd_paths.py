"""Folders whose names are not UTF-8: everything works there, or says one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ppfl.attempts.find import jobs
from ppfl.core.agree import SharedUserError, on_every_rank
from ppfl.core.errors import UserError
from ppfl.pack import steps
from ppfl.status.queue import Queue
from ppfl.submit.cluster import ask
from tests.grids import ppfl
from tests.ranks import on_ranks

TINY = """
name: tiny
rounds: 4
problem:
  name: supervised
  dataset: {name: digits, partition: {name: iid, clients: 4}}
  model: {name: logistic_regression}
  split: {local: ["*.bias"]}
  batch_size: 16
algorithm: {name: ffgg, lr: 0.1, fine_tuner: {name: gradient_descent, steps: 1, lr: 0.1}}
evaluate: {every: 2}
save: {local: true}
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with such a name, and be in it."""
    folder = tmp_path / os.fsdecode(b"donn\xe9es")
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def program(path: Path, script: bytes) -> Path:
    path.write_bytes(b"#!/bin/sh\n" + script)
    path.chmod(0o755)
    return path


def test_a_run_and_all_that_is_made_of_it(odd: Path) -> None:
    config, out = odd / "tiny.yaml", odd / "r" / "r.h5"
    config.write_text(TINY)
    for command in (
        ("run", config, "--out", out),
        ("run", config, "--out", out),
        ("show", out),
        ("log", out),
        ("status", out.parent),
        ("status", config, "--results", out.parent, "--json"),
        ("verify", odd),
        ("stop", out),
        ("table", out.parent, "--out", odd / "t.csv", "--format", "csv"),
        ("collect", out.parent, "--out", odd / "c.h5"),
        ("table", odd / "c.h5"),
        ("plot", odd / "c.h5", "--out", odd / "c.svg"),
        ("diagnose", out, "--json", odd / "d.json"),
    ):
        done = ppfl(*command)
        assert done.exit_code == 0, (command, done.output)
    assert os.fsencode(json.loads((odd / "d.json").read_bytes())["source"]) == os.fsencode(out)


def test_an_error_of_one_rank_reaches_the_others(odd: Path) -> None:
    messages: list[str] = []

    def work(communicator) -> None:  # type: ignore[no-untyped-def]
        def action() -> None:
            if communicator.rank == 1:
                raise UserError(f"{odd}: \ud800 no")

        try:
            on_every_rank(communicator, action)
        except SharedUserError as error:
            messages.append(str(error))

    on_ranks(2, work)
    assert messages == [f"{odd}: \ud800 no"] * 2


def test_what_ranks_of_a_pack_say_is_read(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = program(odd.parent / "launcher", b'printf "diverged: %s\\n" "$LAST"\n')
    monkeypatch.setenv("PPFL_PACK_LAUNCHER", f"{launcher} -n 2")
    out = odd / "r.h5"
    monkeypatch.setenv("LAST", str(out))
    assert steps._run(steps.Step(odd / "tiny.yaml", (), "d", out, 2), lambda: False) == "diverged"


def test_what_is_told_to_slurm_and_by_it(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"set -- {odd}/tiny.yaml\n"
    assert ask(["cat"], os.environ, text) == text
    with_comment = b'printf "7|RUNNING|None|t|ppfl:tiny|%s\\n" "$PWD"\n'
    program(
        odd.parent / "squeue",
        b'case "$*" in *--states=all*) printf "7|RUNNING|%s\\n" "$PWD";;\n*) ' + with_comment + b"esac\n",
    )
    monkeypatch.setenv("PATH", f"{odd.parent}:{os.environ['PATH']}")
    assert [job.folder for job in jobs("7")] == [odd]
    assert [job.id for job in Queue(odd / "results" / "tiny").jobs()] == ["7"]
