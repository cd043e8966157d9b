"""Commands with plug-ins of a folder: they compute what the same file would inside of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.config.run import load
from ppfl.jobs.attempt import Caller
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from ppfl.submit.memory import memory_mb
from tests.grids import ppfl as command
from tests.mpi.jobs import MPIEXEC, arrays
from tests.outside.sources import project, rule_called

DIGITS = {
    "name": "supervised", "dataset": {"name": "digits", "partition": {"name": "iid", "clients": 4}},
    "model": {"name": "linear"}, "split": {"local": []}, "batch_size": 64,
}  # fmt: skip
LINEAR = '''\
"""A model whose file loads torch when it is imported."""

import math
from typing import Literal

import torch.nn.functional as F

from ppfl.networks.model import Model, linear_stage, names_of

ZERO = F.relu(-__import__("torch").ones(1)).item()


class Linear(Model):
    """W x + b."""

    name: Literal["linear"]

    def parameter_names(self):
        return names_of("head")

    def stages(self, input_shape, num_classes):
        return (linear_stage("head", math.prod(input_shape), num_classes, relu=bool(ZERO)),)
'''
DATASET = '''\
"""The digits, by another name."""

from typing import Literal

from ppfl.datasets.digits import Digits


class Figures(Digits):
    name: Literal["figures"]
'''


def reference(config: Path, folder: Path) -> dict[str, bytes]:
    """Return what a run leaves that was never interrupted and had a process for itself."""
    out = folder / "reference.h5"
    assert run(load(config), out, Silent(), SoloCommunicator()) == "complete"
    return arrays(out)


@pytest.mark.mpi
def test_one_and_two_ranks_have_the_same_bits(tmp_path: Path) -> None:
    config = project(tmp_path)
    want = reference(config, tmp_path)
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.h5"
        launcher = [MPIEXEC, "-n", "2", sys.executable, "-m", "mpi4py"] if ranks == 2 else [sys.executable]
        done = subprocess.run(
            [*launcher, "-m", "ppfl", "run", str(config), "--out", str(out)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert arrays(out) == want


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    config = project(tmp_path, server_optimizer={"name": "momentum"}, checkpoint={"every_rounds": 1})
    want, out = reference(config, tmp_path), tmp_path / "stopped.h5"
    told: list[int] = []
    caller = Caller(wants_stop=lambda: len(told) > 3, told=told.append)
    assert run(load(config), out, Silent(), SoloCommunicator(), caller=caller) == "stopped"
    again: list[int] = []
    assert run(load(config), out, Silent(), SoloCommunicator(), caller=Caller(told=again.append)) == "complete"
    assert min(again[1:]) > 1
    assert arrays(out) == want


def test_another_content_is_another_run(tmp_path: Path) -> None:
    config = project(tmp_path)
    reference(config, tmp_path)
    project(tmp_path, {"numbers.py": "def one():\n    return 2 / 2\n"})
    refused = command("run", config, "--out", tmp_path / "reference.h5")
    assert refused.exit_code == 2
    assert "reference.h5" in refused.stderr


def test_grids_list_and_packs_run_them(tmp_path: Path) -> None:
    rules = [{"name": "smallest", "f": 1}, {"name": "smallest", "f": 2}, {"name": "mean"}]
    config = project(tmp_path, grid={"aggregator": rules})
    cells = load_cells(config)
    listed = command("grid", config)
    assert all(digest in listed.stdout for digest in cells)
    packed = command("pack", config, "--out", tmp_path / "packed", "--jobs", "1")
    assert (packed.exit_code, packed.stdout) == (0, f"3 complete: {tmp_path / 'packed'}\n"), packed.stderr
    assert "spawn" not in packed.stderr
    for digest, cell in cells.items():
        alone = tmp_path / "alone" / f"{digest}.h5"
        run(cell.config, alone, Silent(), SoloCommunicator())
        assert arrays(tmp_path / "packed" / alone.name) == arrays(alone)


@pytest.mark.slow
def test_packs_of_files_that_load_torch_start_their_processes_by_spawn_and_say_so(tmp_path: Path) -> None:
    sections = {"problem": DIGITS, "algorithm": {"name": "fedavg", "lr": 0.1, "local_steps": 1}, "rounds": 2}
    config = project(tmp_path, {"models/linear.py": LINEAR}, aggregator={"name": "mean"}, **sections)
    done = subprocess.run(
        [sys.executable, "-m", "ppfl", "pack", str(config), "--out", str(tmp_path / "packed"), "--jobs", "1"],
        capture_output=True, text=True, cwd=tmp_path, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (out,) = (tmp_path / "packed").glob("*.h5")
    assert arrays(out) == reference(config, tmp_path)
    said = f"ppfl: {tmp_path}/rules/models/linear.py loads torch when it is imported: processes are started by spawn"
    assert said in done.stderr


def test_jobs_are_submitted_without_an_estimate_of_what_nobody_knows(tmp_path: Path) -> None:
    config = project(tmp_path, {"datasets/figures.py": DATASET, "models/linear.py": LINEAR})
    sections = [f"problem={DIGITS}", "aggregator={name: mean}", "algorithm={name: fedavg, lr: 0.1, local_steps: 1}"]
    known = load(config, sections)
    unknown = load(config, [*sections, "problem.dataset.name=figures"])
    assert memory_mb([known], 1, gpus=False) is not None
    assert memory_mb([unknown], 1, gpus=False) is None
    assert memory_mb([known, unknown], 1, gpus=False) is None


def test_a_rule_that_fails_is_a_failure_of_the_program(tmp_path: Path) -> None:
    config = project(tmp_path, {"aggregators/broken.py": rule_called("broken", "return 1 / 0")})
    config = project(tmp_path, aggregator={"name": "broken"})
    packed = command("pack", config, "--out", tmp_path / "packed", "--jobs", "1")
    assert packed.exit_code == 1
    assert "ZeroDivisionError: division by zero" in packed.stderr
