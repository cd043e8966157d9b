"""Runs that are computed together try once whether their folder takes files, and each is told when it does not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppfl.config.grid import load_cells
from ppfl.core.errors import UserError
from ppfl.pack import cells
from ppfl.pack.run_queue import ONE_RANK
from ppfl.results import recorder

BASE: dict[str, Any] = {
    "name": "entering",
    "rounds": 2,
    "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 2, "rows": 20},
    "algorithm": {"name": "ffgg", "fine_tuner": {"name": "exact"}},
    "grid": {"algorithm.lr": [0.01, 0.02, 0.03]},
}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders into which something was written to see whether it can be; those named `full` take nothing."""
    found: list[Path] = []

    def try_to_write(folder: Path) -> None:
        found.append(folder)
        if folder.name == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(recorder, "try_to_write", try_to_write)
    return found


def run(folder: Path, names: list[str]) -> list[Any]:
    """Run one cell in each of these folders, all of them together."""
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(BASE))
    grid = load_cells(path).items()
    given = [ONE_RANK.payload(cell, folder / name / f"{d}.h5") for name, (d, cell) in zip(names, grid, strict=True)]
    return list(cells.make_work()(given))


def test_a_folder_is_tried_once(tmp_path: Path, tried: list[Path]) -> None:
    assert run(tmp_path, ["a", "b", "a"]) == ["complete"] * 3
    assert tried == [tmp_path / "a", tmp_path / "b"]


def test_one_that_takes_nothing_is_an_error_of_each_run_in_it(tmp_path: Path, tried: list[Path]) -> None:
    first, other, second = run(tmp_path, ["full", "a", "full"])
    assert other == "complete"
    for error in (first, second):
        assert isinstance(error, UserError)
        assert "full: No space left on device" in str(error)
    assert tried.count(tmp_path / "full") == 2
