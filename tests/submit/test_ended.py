"""Notes about ranks that were killed with their supervisors: what the batch script's last helper writes."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from ppfl.cli import main
from ppfl.config.grid import load_cells
from ppfl.jobs.failures import Failure, read_failure, write_failure
from ppfl.jobs.states import state_of
from ppfl.results.layout import running_path
from tests.status.test_status import BASE

SLURM = {"SLURM_JOB_ID": "12", "SLURM_MEM_PER_CPU": "256"}
SAYS_SLURMSTEPD = "slurmstepd: error: StepId=12.0 exceeded memory limit (560 > 524), being killed\n"


@pytest.fixture
def outs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Be in a folder with a grid; return where its results go."""
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(yaml.safe_dump(BASE))
    Path("out").mkdir()
    return [Path("out") / f"{digest}.h5" for digest in load_cells(Path("grid.yaml"))]


def ended(code: int, *command: str, log: str = "", **variables: str) -> int:
    """Call it as slurm/continue.sh does: its standard error is the job's log, at whose end are words of Slurm."""
    Path("log").write_text(log)
    launched = ["srun", "--mpi=pmi2", "python", "-m", "ppfl", *command]
    before = os.dup(2)
    with Path("log").open("a") as file, pytest.MonkeyPatch.context() as patch:
        for name, value in (SLURM | variables).items():
            patch.setenv(name, value)
        os.dup2(file.fileno(), 2)
        try:
            done = CliRunner().invoke(main, ["ended", str(code), *launched], catch_exceptions=False, prog_name="ppfl")
        finally:
            os.dup2(before, 2)
            os.close(before)
    return done.exit_code


def run(out: Path) -> tuple[str, ...]:
    return ("run", "grid.yaml", "--cell", out.stem, "--out", str(out))


def claim(out: Path, **facts: Any) -> None:
    mine = {"pid": 1, "host": "another", "job": "12", "updated": time.time(), "round": 3, "rounds": 4, "token": "x"}
    running_path(out).write_text(json.dumps({**mine, **facts}))


def reason(out: Path) -> str:
    note = read_failure(out)
    return note.reason if note is not None else ""


def test_what_slurm_says_is_the_reason(outs: list[Path]) -> None:
    claim(outs[0])
    assert ended(137, *run(outs[0]), log=SAYS_SLURMSTEPD) == 0
    note = read_failure(outs[0])
    assert note is not None
    assert note.reason.startswith("OUT_OF_MEMORY: Slurm had granted 256 MB a CPU; ask for more (ppfl submit --mem")
    assert (note.digest, note.round, note.cell) == (outs[0].stem, 3, "seed=0")
    assert state_of(outs[0]).kind == "failed"
    # killed before there was a claim
    ended(137, *run(outs[1]), log=SAYS_SLURMSTEPD)
    assert reason(outs[1]).startswith("OUT_OF_MEMORY")


def test_the_accounting_is_asked_first(outs: list[Path], tmp_path: Path) -> None:
    sacct = tmp_path / "bin" / "sacct"
    sacct.parent.mkdir()
    sacct.write_text("#!/bin/sh\ncase $* in *--jobs=12*) echo FAILED; echo OUT_OF_MEMORY;; esac\n")
    sacct.chmod(0o755)
    ended(1, *run(outs[0]), PATH=f"{sacct.parent}:{os.environ['PATH']}")
    assert reason(outs[0]).startswith("OUT_OF_MEMORY")


def test_without_a_word_of_slurm_it_is_a_question(outs: list[Path]) -> None:
    ended(137, *run(outs[0]), log=SAYS_SLURMSTEPD.replace("12.0", "11.0"))  # of an older job in the same log
    assert reason(outs[0]) == "the ranks were killed by SIGKILL (out of memory?) Slurm had granted 256 MB a CPU"
    ended(139, *run(outs[1]))
    assert reason(outs[1]) == "the step was killed by SIGSEGV"


GUESS = "the process was killed by SIGKILL (out of memory?)"


def test_a_guess_is_made_exact_and_what_is_known_stays(outs: list[Path]) -> None:
    write_failure(outs[0], Failure(digest="x", reason=GUESS, rank=3, job="12"))
    write_failure(outs[1], Failure(digest="x", reason="ValueError: of no use"))
    for out in outs[:2]:
        ended(1, *run(out), log=SAYS_SLURMSTEPD)
    note = read_failure(outs[0])
    assert note is not None
    assert (note.reason[:13], note.rank) == ("OUT_OF_MEMORY", 3)
    assert reason(outs[1]) == "ValueError: of no use"


def test_a_guess_stays_that_another_job_has_left_or_that_says_more(outs: list[Path]) -> None:
    write_failure(outs[0], Failure(digest="x", reason=GUESS, job="11"))
    write_failure(outs[1], Failure(digest="x", reason=GUESS, job="12"))
    ended(137, *run(outs[0]), log=SAYS_SLURMSTEPD)
    ended(1, "pack", "grid.yaml", "--out", "out")
    assert [reason(out) for out in outs[:2]] == [GUESS, GUESS]


def test_runs_of_others_are_left_alone(outs: list[Path]) -> None:
    claim(outs[0], job="13")
    claim(outs[1], job="", host=platform.node(), pid=os.getpid())
    for out in outs[:2]:
        ended(137, *run(out), log=SAYS_SLURMSTEPD)
        assert (reason(out), running_path(out).exists()) == ("", True)
    # a launcher that is not there is no failure of the run
    ended(127, *run(outs[2]))
    assert reason(outs[2]) == ""


def test_of_a_pack_the_runs_that_it_was_at_are_noted(outs: list[Path]) -> None:
    claim(outs[1])
    claim(outs[2], job="13")
    ended(137, "pack", "grid.yaml", "--out", "out", log=SAYS_SLURMSTEPD)
    assert [bool(reason(out)) for out in outs] == [False, True, False, False, False, False]


@pytest.mark.parametrize(
    "command", [(), ("run",), ("run", "nowhere.yaml"), ("pack", "grid.yaml", "--bad"), ("grid", "x")]
)
def test_a_command_that_says_nothing_is_no_failure_of_ours(outs: list[Path], command: tuple[str, ...]) -> None:
    assert ended(137, *command) in (0, 2)
    assert not list(Path("out").iterdir())
