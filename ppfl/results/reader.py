"""Reads a result file; see `ppfl.results.layout` for what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ppfl.core.errors import UserError
from ppfl.results.hdf5 import UNREADABLE, NotHDF5Error, check_attributes, read_image
from ppfl.results.layout import FILE_KIND
from ppfl.results.seal import CHECKSUM
from ppfl.results.stored_config import stored_config

if TYPE_CHECKING:
    from pathlib import Path

    import h5py
    import xarray as xr

_GROUPS = ("rounds", "clients", "summary", "stages", "arrivals", "losses", "newcomers")


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
    seconds: dict[str, float]
    """What the run has spent its time on; empty in files that do not say."""
    best_round: dict[str, Any]
    """Number, score and metric of the best round by validation; empty where it was not looked for."""
    rounds: xr.Dataset
    clients: xr.Dataset
    summary: xr.Dataset
    """Final metrics by stage and statistic; empty while a run is running."""
    stages: xr.Dataset
    """What the training of each stage has cost; empty while a run is running, and in files of version 3."""
    arrivals: xr.Dataset
    """The log of an asynchronous run; empty for others."""
    losses: xr.Dataset
    """Its jobs that a network has lost; empty where it could not."""
    newcomers: xr.Dataset
    """Clients that were held out of training; empty where none were."""


def open_result(path: Path) -> Result:
    """Read a result, also an unfinished one.

    Raises UserError for a file that is no result, is not as it was written, or that a newer version has written.
    """
    import h5py

    try:
        content, has_seal = read_image(path)
        with h5py.File(BytesIO(content), "r") as file:
            attributes = _attributes(file)
            check_attributes(path, attributes, has_seal=has_seal)
            if attributes.get("kind") != FILE_KIND:
                raise UserError(f"{path}: is an HDF5 file, but no result of ppfl; give the .h5 file that a run wrote")
            attributes.pop(CHECKSUM, None)
            groups = set(file)
            provenance = _attributes(file["provenance"]) if "provenance" in file else {}
            problem = _attributes(file["problem"]) if "problem" in file else {}
            seconds = _attributes(file["seconds"]) if "seconds" in file else {}
            best_round = _attributes(file["best_round"]) if "best_round" in file else {}
        datasets = {name: _dataset(content, name if name in groups else None) for name in _GROUPS}
        config = stored_config(attributes["config"], path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the .h5 file that a run wrote") from error
    except NotHDF5Error as error:
        raise UserError(f"{error}; give the .h5 file that a run wrote") from error
    except UNREADABLE as error:
        reason = "is a folder" if path.is_dir() else getattr(error, "strerror", None)
        reason = reason or f"cannot be read as HDF5 ({' '.join(str(error).split())})"
        raise UserError(f"{path}: {reason}; give the .h5 file that a run wrote") from error
    return Result(path, attributes, config, provenance, problem, seconds, best_round, **datasets)


def _attributes(group: h5py.Group) -> dict[str, Any]:
    return {name: value.item() if hasattr(value, "item") else value for name, value in group.attrs.items()}


def _dataset(content: bytes, group: str | None) -> xr.Dataset:
    import xarray as xr

    if group is None:
        return xr.Dataset()
    with xr.open_dataset(BytesIO(content), engine="h5netcdf", group=group) as dataset:
        return dataset.load()
