"""slurm/grid.sbatch as tasks of a job array: whatever numbers they have, no run stays undone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ppfl.config.grid import load_cells
from ppfl.pack.budget import place_in_array
from ppfl.pack.steps import launcher
from tests.test_stop import GRID

ROOT = Path(__file__).parents[2]


def task(folder: Path, number: int, numbers: list[int], step: int = 1) -> int:
    """Return the exit code of a task, started with the variables that Slurm sets."""
    facts = {"ID": number, "MIN": min(numbers), "MAX": max(numbers), "COUNT": len(numbers), "STEP": step}
    environment = os.environ | {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in facts.items()}
    environment |= {"PPFL_SLURM": str(folder / "site"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # what slurm/env.sh of a site does
    command = ["bash", "site/grid.sbatch", "grid.yaml"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize(("numbers", "step"), [([3, 7], 4), ([5], 1)])
def test_all_runs_are_computed(tmp_path: Path, numbers: list[int], step: int) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "site").mkdir()
    for name in ("continue.sh", "grid.sbatch"):
        shutil.copy(ROOT / "slurm" / name, tmp_path / "site")
    (tmp_path / "site" / "env.sh").write_text("PPFL_LAUNCHER=(env)\n")
    assert [task(tmp_path, number, numbers, step) for number in numbers] == [0] * len(numbers)
    results = {path.stem for path in (tmp_path / "results" / "tiny").glob("*.h5")}
    assert results == set(load_cells(tmp_path / "grid.yaml"))


@pytest.mark.parametrize(("number", "place"), [("3", 0.0), ("7", 0.8), ("4", 0.2), ("9", 0.0), ("x", 0.0), ("", 0.0)])
def test_tasks_begin_at_different_places(number: str, place: float) -> None:
    facts = {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "7"}
    assert place_in_array(facts) == place


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("srun --mpi=pmi2", ["srun", "--mpi=pmi2", "-n", "3"]),
        ("env A=1 mpiexec -n 4", ["env", "A=1", "mpiexec", "-n", "4"]),
        ("srun --ntasks=4", ["srun", "--ntasks=4"]),
    ],
)
def test_a_launcher_that_says_how_many_ranks_is_left_alone(given: str, expected: list[str]) -> None:
    assert launcher(3, {"PPFL_PACK_LAUNCHER": given}) == expected
