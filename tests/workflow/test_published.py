"""Configurations of the public federated data sets, on made-up files of their schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppfl.config.grid import load_cells
from ppfl.core.plugins import find
from tests.examples import published
from tests.workflow.test_workflow import ROOT, snakemake

STAGES = ("pretrain", "personalize", "finetune")
MODELS = {"femnist": "resnet18", "gldv2": "resnet18", "stackoverflow": "transformer"}
LISTED = [name for name, model in MODELS.items() if find("ppfl.models", model) is not None]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    published.write(folder)
    monkeypatch.setenv("PPFL_DATA", str(folder))
    return folder


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("folder", ["", "tiny"])
def test_stages_are_valid_and_start_from_the_first(name: str, folder: str) -> None:
    first, *others = [load_cells(ROOT / "configs" / folder / name / f"{stage}.yaml") for stage in STAGES]
    assert len(first) == 1
    for cells in others:
        starts = [cell.config.start for cell in cells.values()]
        assert {start.digest_of_run for start in starts if start is not None} == set(first)


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.workflow
@pytest.mark.parametrize("name", LISTED)
def test_tiny_stages_run_end_to_end_on_two_ranks(tmp_path: Path, data: Path, name: str) -> None:
    configuration = ROOT / "configs" / "tiny" / f"{name}.yaml"
    done = snakemake(tmp_path, "--cores", "2", "--configfile", str(configuration), PPFL_DATA=str(data))
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in STAGES:
        wanted = load_cells(ROOT / "configs" / "tiny" / name / f"{stage}.yaml")
        found = {path.stem for path in (tmp_path / "results" / f"tiny_{name}_{stage}").glob("*.h5")}
        assert found == set(wanted)
