"""A job that asked for GPUs and cannot use them says so first: before it is submitted, and in its logs."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from ppfl.cli import main
from ppfl.config.grid import load_cells
from ppfl.jobs import gpus_in_vain
from ppfl.jobs.gpus_in_vain import in_vain, torch_without_gpus
from ppfl.jobs.run_log import tries
from tests.test_stop import GRID, TINY

ASKED = {"SLURM_JOB_ID": "7", "SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "0"}
WORDS = "this job asked for GPUs (1) and computes on the CPU: torch 9.9+cpu was built without CUDA; install"
ON_CPU_WORDS = (
    "this job asked for GPUs (1) and computes on the CPU: engine.device is cpu, or auto with a problem of statistics"
)


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus_in_vain, "torch_without_gpus", lambda: "9.9+cpu")
    monkeypatch.setattr("ppfl.submit.command.torch_without_gpus", lambda: "9.9+cpu")


@pytest.mark.parametrize(
    ("cuda", "hip", "expected"),
    [("None", "None", "2.13.0+cpu"), ("'12.6'", "None", ""), ("None", "'6.2'", "")],
)
def test_what_torch_was_built_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: str, hip: str, expected: str
) -> None:
    file = tmp_path / "version.py"
    file.write_text(f"__version__ = '2.13.0+cpu'\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = {hip}\n")

    class Torch:
        def locate_file(self, _: str) -> Path:
            return file

    monkeypatch.setattr(metadata, "distribution", lambda _: Torch())
    torch_without_gpus.cache_clear()
    try:
        assert torch_without_gpus() == expected
    finally:
        torch_without_gpus.cache_clear()


def test_the_torch_of_this_environment_is_known() -> None:
    import torch

    assert torch_without_gpus() == ("" if torch.version.cuda or torch.version.hip else torch.__version__)


@pytest.mark.parametrize(
    ("device", "environment", "told"),
    [
        ("auto", ASKED, WORDS),
        ("auto", {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "1"}, WORDS),
        ("cpu", ASKED, "this job asked for GPUs (1) and computes on the CPU: engine.device is cpu, or auto with a"),
        ("auto", {"SLURM_JOB_ID": "7"}, ""),
        ("auto", {"SLURM_JOB_ID": "7", "SLURM_GPUS_PER_TASK": "0"}, ""),
        ("auto", {"SLURM_GPUS_PER_TASK": "1"}, ""),
    ],
)
def test_who_is_told(without_cuda: None, device: str, environment: dict[str, str], told: str) -> None:
    found = in_vain(device, environment)
    assert found.startswith(told) if told else found == ""


def test_it_is_the_first_line_of_every_log(without_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "grid.yaml").write_text(GRID)
    for name, value in ASKED.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["run", "tiny.yaml"], catch_exceptions=False)
    assert done.stderr.startswith(f"ppfl: warning: {ON_CPU_WORDS}")
    (digest,) = load_cells("tiny.yaml")
    assert tries(Path(f"results/tiny/{digest}.h5"))[1].read_text().startswith(f"ppfl: warning: {ON_CPU_WORDS}")
    monkeypatch.setattr("ppfl.pack.command.pack", lambda *_, **__: pytest.fail("not before it is told"))
    with pytest.raises(pytest.fail.Exception):
        CliRunner().invoke(main, ["pack", "grid.yaml"], catch_exceptions=False)


@pytest.mark.parametrize(("options", "is_told"), [([], True), (["--cpu"], False)])
def test_it_is_told_before_a_job_is_submitted(
    without_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], is_told: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    done = CliRunner().invoke(main, ["submit", "tiny.yaml", "--dry-run", *options], catch_exceptions=False)
    assert done.exit_code == 0
    words = "warning: GPUs are asked for, and the job would compute on the CPU: torch 9.9+cpu was built without CUDA"
    assert (words in done.stderr) == is_told
