"""Text as it comes: terminals, paths, variables and full disks."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppfl.cli.rows import print_rows
from ppfl.cli.streams import accept_any_text
from ppfl.comm.solo import SoloCommunicator
from ppfl.core.numbers import whole_number
from ppfl.core.provenance import describe_process
from ppfl.jobs.allotment import check_allotment
from ppfl.jobs.launcher import launched_as
from ppfl.pack.budget import seconds_left_of_job
from ppfl.pack.environment import default_jobs
from tests.grids import grid_file, ppfl

ODD = ["²", "١", "1_0", " 1", "+1", "-1", "1.0", "nan", "abc", "", "9" * 5000]


@pytest.mark.parametrize("text", ODD)
def test_only_digits_are_whole_numbers(text: str) -> None:
    assert whole_number(text) is None
    assert whole_number("0012") == 12


@pytest.mark.parametrize("text", ODD)
def test_variables_that_are_no_numbers_say_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    here = default_jobs(1, {})
    names = ("SLURM_CPUS_PER_TASK", "SLURM_GPUS_PER_TASK", "SLURM_NTASKS", "MPI_LOCALNRANKS", "SLURM_PROCID")
    odd = dict.fromkeys((*names, "SLURM_JOB_ID", "SLURM_JOB_END_TIME", "SLURM_STEP_NUM_TASKS", "PMI_RANK"), text)
    assert default_jobs(1, odd) == here
    assert default_jobs(1, {"SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": text}) == here
    assert default_jobs(2, odd) == max(1, len(os.sched_getaffinity(0)) // 2)
    assert launched_as({**odd, "PMI_SIZE": "2", "PMIX_RANK": text}).size == 1
    assert seconds_left_of_job(odd) is None
    check_allotment(SoloCommunicator(), odd)


def written(text: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return what a terminal gets of a text."""
    got = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(got, encoding=encoding, errors="strict"))
    accept_any_text()
    sys.stdout.write(text)
    sys.stdout.flush()
    return got.getvalue()


def test_terminals_get_what_they_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written("‖F(θ)‖ ≤ 1 × 2 – …", "ascii", monkeypatch) == b"||F(theta)|| <= 1 x 2 - ..."
    assert written("日 ё", "latin-1", monkeypatch) == rb"\u65e5 \u0451"
    assert written("θ", "utf-8", monkeypatch) == "θ".encode()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_are_not_utf8_are_written_as_they_are(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(os.fsdecode(b"donn\xe9es"), encoding, monkeypatch) == b"donn\xe9es"


def test_what_is_kept_of_a_process_is_text_for_every_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ppfl", "run", os.fsdecode(b"donn\xe9es/a.yaml")])
    monkeypatch.setenv("SLURM_JOB_NODELIST", os.fsdecode(b"n\xe9"))
    facts = describe_process()
    assert facts["command"] == r"ppfl run donn\udce9es/a.yaml"
    assert all(text.encode("utf-8") for text in facts.values())


def test_commands_of_terminals_in_names_are_shown_and_not_sent(tmp_path: Path) -> None:
    done = ppfl("grid", tmp_path / "a\x1b[31m\x07.yaml")
    assert done.exit_code == 2
    assert r"a\x1b[31m\x07.yaml: cannot be read" in done.stderr
    path = grid_file(tmp_path, r'{problem.generator: ["\e[31mx"]}')
    assert "\x1b" not in ppfl("grid", path).output


def test_tables_of_plain_texts_look_as_rich_makes_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("a", "bc"), [("1", "x"), ("234", "")])
    plain = capsys.readouterr().out
    assert plain == (
        "┏━━━━━┳━━━━┓\n┃ a   ┃ bc ┃\n┡━━━━━╇━━━━┩\n│ 1   │ x  │\n│ 234 │    │\n└─────┴────┘\n"
    )  # fmt: skip
    print_rows(("a", "bc"), [("1", "x"), ("234", ""), ("é", "")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in (*lines[:-2], lines[-1])] == plain.splitlines()


def test_runs_are_listed_without_the_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would walk over the settings of all runs again and again, a third of the time for 5,000 of them."""
    seen: list[bool] = []
    monkeypatch.setattr("ppfl.cli.rows.print_rows", lambda header, rows: seen.append(gc.isenabled()))
    monkeypatch.setattr(gc, "freeze", lambda: seen.append(gc.isenabled()))
    assert ppfl("grid", grid_file(tmp_path, "{seed: [0, 1]}")).exit_code == 0
    assert seen == [False, False]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("/dev/full", 2, "ppfl: error: standard output cannot be written: No space left on device\n"),
        ("a closed pipe", 1, ""),
    ],
)
def test_output_that_nobody_takes_is_told_by_the_code(tmp_path: Path, target: str, code: int, said: str) -> None:
    path = grid_file(tmp_path, "{seed: [0, 1]}")
    if target == "/dev/full":
        out = os.open(target, os.O_WRONLY)
    else:
        end, out = os.pipe()
        os.close(end)
    command = [sys.executable, "-m", "ppfl", "grid", str(path)]
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(out)
    assert (done.returncode, done.stderr) == (code, said)
