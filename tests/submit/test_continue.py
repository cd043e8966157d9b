"""slurm/continue.sh: ranks that ended before MPI had started are started again, and no others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ppfl.jobs.launcher import open_communicator

ROOT = Path(__file__).parents[2]
AGAIN = "started again"


def job(folder: Path, ranks: str) -> subprocess.CompletedProcess[str]:
    """Run a batch script whose ranks are a piece of bash; each start adds a letter to the file `starts`."""
    script = f"set -euo pipefail\nsource {ROOT}/slurm/continue.sh\nor_requeue bash -c '{ranks}'\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder, env=environment | {"TMPDIR": str(folder)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def test_ranks_that_mpi_lost_are_started_again(tmp_path: Path) -> None:
    done = job(tmp_path, 'printf x >> starts; if [[ $(< starts) == x ]]; then kill -ABRT $$; fi; touch "$PPFL_BEGUN"')
    assert (done.returncode, starts(tmp_path)) == (0, 2)
    assert done.stderr.count(AGAIN) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["starts"]


def test_not_for_ever(tmp_path: Path) -> None:
    done = job(tmp_path, "printf x >> starts; exit 16")
    assert (done.returncode, starts(tmp_path), done.stderr.count(AGAIN)) == (16, 3, 2)


@pytest.mark.parametrize("code", [0, 1, 2, 76])
def test_what_mpi_has_no_part_in_is_not_repeated(tmp_path: Path, code: int) -> None:
    done = job(tmp_path, f"printf x >> starts; exit {code}")
    assert (done.returncode, starts(tmp_path), done.stderr.count(AGAIN)) == (code, 1, 0)


def test_ranks_that_had_begun_are_not_started_again(tmp_path: Path) -> None:
    done = job(tmp_path, 'printf x >> starts; touch "$PPFL_BEGUN"; kill -KILL $$')
    assert (done.returncode, starts(tmp_path), done.stderr.count(AGAIN)) == (137, 1, 0)


def test_ranks_that_were_told_to_stop_are_not_started_again(tmp_path: Path) -> None:
    done = job(tmp_path, "printf x >> starts; kill -USR1 $PPID; sleep 1; kill -KILL $$")
    assert (done.returncode, starts(tmp_path), done.stderr.count(AGAIN)) == (75, 1, 0)


def test_a_run_says_when_its_ranks_have_found_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPFL_BEGUN", str(tmp_path / "begun"))
    open_communicator()
    assert (tmp_path / "begun").exists()
    monkeypatch.setenv("PPFL_BEGUN", str(tmp_path / "no folder" / "begun"))
    open_communicator()
