"""Files of every version of the results stay readable, and are never gone on from by another version (docs/results.md).

The files were made by the code of their version (`tests/kept/make.py`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ppfl.config.run import RESULTS_VERSION
from ppfl.results.reader import open_result
from tests.grids import opened, ppfl

VERSIONS = sorted(Path(__file__).parent.glob("version-*"))
RESULTS = sorted(path for folder in VERSIONS for path in folder.rglob("*.h5") if path.name != "collected.h5")


def test_something_is_kept() -> None:
    assert len(VERSIONS) >= 1
    assert len(RESULTS) >= 5 * len(VERSIONS)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_result_is_read_whole(path: Path) -> None:
    result = open_result(path)
    assert result.attrs["results_version"] <= RESULTS_VERSION
    assert result.attrs["status"] in ("complete", "diverged", "running")
    assert result.rounds.sizes["round"] >= 2
    assert result.rounds.uplink_bytes.to_numpy()[-1] > 0
    assert (result.summary.sizes != {}) == (result.attrs["status"] != "running")
    assert (result.arrivals.sizes.get("arrival", 0) == 24) == (path.stem == "asynchronous")
    shown = ppfl("show", path)
    assert shown.exit_code == 0
    assert str(result.attrs["digest"]) in shown.output


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_grids_are_tabled_drawn_and_collected(folder: Path, tmp_path: Path) -> None:
    from_runs = ppfl("table", folder / "quadratic", "--metric", "operator_norm", "--format", "csv")
    assert from_runs.exit_code == 0, from_runs.output
    from_collection = ppfl("table", folder / "collected.h5", "--metric", "operator_norm", "--format", "csv")
    assert from_collection.stdout == from_runs.stdout
    assert from_runs.stdout.count("\n") == 3
    assert (
        ppfl("plot", folder / "collected.h5", "--metric", "operator_norm", "--out", tmp_path / "a.png").exit_code == 0
    )
    anew = ppfl("collect", folder / "quadratic", "--out", tmp_path / "anew.h5")
    assert anew.exit_code == 0, anew.output
    kept, new = opened(folder / "collected.h5"), opened(tmp_path / "anew.h5")
    assert kept.operator_norm.identical(new.operator_norm.sel(lr=kept.lr))


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_parameters_are_read(folder: Path) -> None:
    shared = load_file(folder / "digits.h5.shared.safetensors")
    local = load_file(folder / "digits.h5.local-0-of-1.safetensors")
    assert shared
    assert local
    assert all(torch.isfinite(value.double()).all() for value in (*shared.values(), *local.values()))


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_files_carry_checksums_since_version_4(folder: Path) -> None:
    verified = ppfl("verify", folder)
    assert verified.exit_code == 0, verified.output
    verdicts = dict(line.rsplit(": ", 1) for line in verified.output.splitlines())
    files = {str(path) for ending in ("h5", "safetensors") for path in folder.rglob(f"*.{ending}")}
    assert files <= verdicts.keys()
    without = {path for path in files if folder.name == "version-3" and ".checkpoint" not in path}
    assert {path: verdict for path, verdict in verdicts.items() if verdict != "ok"} == dict.fromkeys(
        without, "has none"
    )


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_only_its_own_version_goes_on_with_a_run(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    is_own = folder.name == f"version-{RESULTS_VERSION}"
    words = ("run", tmp_path / "digits.yaml", "--out", tmp_path / "stopped.h5", "--set", "rounds=100000", "--set")
    if not is_own:
        refused = ppfl(*words, "checkpoint.every_rounds=50")
        assert refused.exit_code == 2
        assert "holds run" in refused.output
    (tmp_path / "stopped.h5").unlink()
    # shorter than what the checkpoint has done, and so another run in every version
    other = ppfl(*words[:-2], "rounds=2")
    assert other.exit_code == 0
    assert "its digest is" in other.output
    assert open_result(tmp_path / "stopped.h5").rounds["round"].to_numpy().tolist() == [0, 2]
