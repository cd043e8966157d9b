"""Grids of results made by hand, in all the states that clusters leave them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import xarray as xr
from click.testing import CliRunner, Result

from ppfl.cli import main
from ppfl.config.grid import Cell, load_cells
from ppfl.results.layout import failed_path, running_path
from ppfl.results.seal import seal_anew
from tests.conftest import MakeResult

BASE = """
name: trial
rounds: 40
precision: float64
problem: {name: quadratic, generator: comparison, zeta: 1, rows: 30, shared_dimension: 4, local_dimension: 2}
algorithm: {name: ffgg, lr: theory, fine_tuner: {name: conjugate_gradient, steps: 1}}
"""


def ppfl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False, prog_name="ppfl")


def opened(path: Path) -> xr.Dataset:
    """Return a collected file as a user opens it: xarray finds out by itself what reads it."""
    with xr.open_dataset(path) as dataset:
        return dataset.load()


def grid_file(folder: Path, grid: str, base: str = BASE) -> Path:
    path = folder / "trial.yaml"
    path.write_text(f"{base}grid: {grid}\n", encoding="utf-8")
    return path


def curve(scale: float, length: int = 5) -> dict[str, list[float]]:
    return {"operator_norm": [scale * 0.1**k for k in range(length)], "uplink_bytes": [8.0 * k for k in range(length)]}


def settings_of(cell: Cell) -> dict[str, Any]:
    settings: dict[str, Any] = cell.config.model_dump(mode="json")
    return settings


def fill(make_result: MakeResult, path: Path, *, skip: tuple[int, ...] = ()) -> list[Cell]:
    """Write a complete result for every run of a file, the n-th one starting at n + 1."""
    cells = list(load_cells(path).values())
    for number, cell in enumerate(cells):
        if number not in skip:
            make_result(cell.digest, settings_of(cell), curve(number + 1))
    return cells


def in_all_states(make_result: MakeResult, path: Path) -> list[Cell]:
    """Write results of six runs: complete, diverged, running, failed with and without a result, missing."""
    cells = list(load_cells(path).values())
    assert len(cells) == 6
    configs = [settings_of(cell) for cell in cells]
    make_result(cells[0].digest, configs[0], curve(1.0))
    broken = {"operator_norm": [1.0, 1e6, float("nan")], "uplink_bytes": [0.0, 8.0, 16.0]}
    make_result(cells[1].digest, configs[1], broken, status="diverged")
    at_work = make_result(cells[2].digest, configs[2], curve(3.0, 2), status="running")
    running_path(at_work).write_text("{}")
    half = make_result(cells[3].digest, configs[3], curve(4.0, 3), status="running")
    for result, reason in ((half, "ValueError: no"), (half.with_name(f"{cells[4].digest}.h5"), "signal 9,\n killed")):
        failed_path(result).write_text(json.dumps({"digest": result.stem, "reason": reason}))
    return cells


def change(path: Path, **attributes: Any) -> None:
    """Change attributes of a result file; `commit` is one of its provenance."""
    with h5py.File(path, "r+") as file:
        for name, value in attributes.items():
            (file["provenance"] if name == "commit" else file).attrs[name] = value
    seal_anew(path)


def same_bytes(found: xr.DataArray, expected: xr.DataArray) -> bool:
    return found.dtype == expected.dtype and found.to_numpy().tobytes() == expected.to_numpy().tobytes()
