"""Reads a result file; see `ppfl.results.layout` for what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppfl.core.errors import UserError
from ppfl.results.layout import FILE_KIND
from ppfl.results.stored_config import stored_config

if TYPE_CHECKING:
    from pathlib import Path

    import h5py
    import xarray as xr

_GROUPS = ("rounds", "clients", "summary", "stages", "arrivals")


@dataclass(frozen=True)
class Result:
    """All that a result file holds, in memory."""

    path: Path
    attrs: dict[str, Any]
    """name, digest, status ("running" unless the run ended), complete, config as text, results_version."""
    config: dict[str, Any]
    """The configuration with defaults filled in."""
    provenance: dict[str, Any]
    problem: dict[str, Any]
    """What the problem knew of itself, e.g. L and mu."""
    rounds: xr.Dataset
    clients: xr.Dataset
    summary: xr.Dataset
    """Final metrics by stage and statistic; empty while a run is running."""
    stages: xr.Dataset
    """What the training of each stage has cost; empty while a run is running, and in files of version 3."""
    arrivals: xr.Dataset
    """The log of an asynchronous run; empty for others."""


def open_result(path: Path) -> Result:
    """Read a result, also an unfinished one. Raises UserError for a file that is no result."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            attributes = _attributes(file)
            groups = set(file)
            provenance = _attributes(file["provenance"]) if "provenance" in file else {}
            problem = _attributes(file["problem"]) if "problem" in file else {}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the .h5 file that a run wrote") from error
    except OSError as error:
        reason = "is a folder" if path.is_dir() else f"cannot be read as HDF5 ({error})"
        raise UserError(f"{path}: {reason}; give the .h5 file that a run wrote") from error
    if attributes.get("kind") != FILE_KIND:
        raise UserError(f"{path}: is an HDF5 file, but no result of ppfl; give the .h5 file that a run wrote")
    datasets = {name: _dataset(path, name if name in groups else None) for name in _GROUPS}
    config = stored_config(attributes.get("config", ""), path)
    return Result(path, attributes, config, provenance, problem, **datasets)


def _attributes(group: h5py.Group) -> dict[str, Any]:
    return {name: value.item() if hasattr(value, "item") else value for name, value in group.attrs.items()}


def _dataset(path: Path, group: str | None) -> xr.Dataset:
    import xarray as xr

    if group is None:
        return xr.Dataset()
    # xarray shortens `..` by the text, which is another file where a symbolic link comes before it
    with xr.open_dataset(path.resolve(), engine="h5netcdf", group=group) as dataset:
        return dataset.load()
