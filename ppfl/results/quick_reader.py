"""Reads a few parts of very many results: low-level HDF5 calls, one open file at a time, nothing of xarray.

`ppfl.results.reader.open_result` reads one result whole and takes about ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain
from ppfl.results.hdf5 import NotHDF5Error, check_attributes, opened
from ppfl.results.layout import FILE_KIND, FINISHED, PLUG_INS, SECONDS_SHARED_BY
from ppfl.results.seal import CHECKSUM, DamagedError, seal_of

Array = npt.NDArray[Any]

FAILED, MISSING = "failed", "missing"
_finished: dict[Path, tuple[int, int, int]] = {}
"""Results that were found finished, as they were then: who watches thousands of them reads each once."""
PROVENANCE = ("commit", "host", "device", "version_ppfl", "version_torch")
"""What is read of where a result comes from, beside who shares its seconds."""


@dataclass(frozen=True)
class Outline:
    """How a run ended and what its file holds, without the numbers."""

    status: str
    """complete, diverged, running (at work, or stopped before its end), failed or missing."""
    reason: str = ""
    """Why a failed run failed, in one line."""
    attrs: dict[str, Any] = field(default_factory=dict)
    """The attributes of the file; empty without one."""
    provenance: dict[str, Any] = field(default_factory=dict)
    rounds: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """Evaluated rounds."""
    clients: tuple[str, ...] | None = None
    """Names of the clients where there are series over them."""
    series: dict[str, tuple[np.dtype[Any], int]] = field(default_factory=dict)
    """Number type and number of dimensions of each score and cost."""
    summary: tuple[str, ...] = ()
    """Final metrics."""
    stages: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()

    @property
    def has_file(self) -> bool:
        """Whether there is a result, finished or not."""
        return bool(self.attrs)

    @property
    def seconds_shared_by(self) -> int:
        """How many runs were computed together, whose seconds are equal shares of their time; 1: none but this."""
        return int(self.provenance.get(SECONDS_SHARED_BY, 1))


def kind_of(path: Path) -> str | None:
    """Return what kind of file of ours this is, None for anything else and for what cannot be read.

    One with a checksum says so itself, and is neither parsed nor compared with it here.
    """
    try:
        if (seal := seal_of(path)) is not None:
            return seal.kind
        with opened(path) as (file, _):
            root = h5py.h5g.open(file, b"/")
            return str(_attribute(root, b"kind")) if h5py.h5a.exists(root, b"kind") else None
    except (OSError, NotHDF5Error, DamagedError):
        return None


def attributes_of(path: Path) -> dict[str, Any]:
    """Return kind, digest and status of a result, those that it has; errors as of `ppfl.results.hdf5.opened`."""
    with opened(path) as (file, has_seal):
        root = h5py.h5g.open(file, b"/")
        found = _attributes(root, ("kind", "digest", "status", "results_version", CHECKSUM))
        check_attributes(path, found, has_seal=has_seal)
        return found


def client_names_of(path: Path) -> tuple[str, ...]:
    """Return the names of the clients of a result; errors as of `ppfl.results.hdf5.opened`."""
    with opened(path) as (file, _):
        return _texts(h5py.h5g.open(h5py.h5g.open(file, b"/"), b"clients"), b"client")


def check(path: Path) -> bool:
    """Say whether a result or a collection has a checksum; it is as it was written then.

    Errors as of `ppfl.results.hdf5.opened`.
    """
    with opened(path) as (file, has_seal):
        check_attributes(path, _attributes(h5py.h5g.open(file, b"/"), (CHECKSUM, "results_version")), has_seal=has_seal)
        return has_seal


def is_finished(path: Path) -> bool:
    """Say whether a good result lies there that says that its run has ended."""
    try:
        stat = path.stat()
        # results are replaced as a whole, so that a new one has another inode
        identity = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if _finished.get(path) == identity:
            return True
        found = attributes_of(path)
    except (OSError, UserError):
        return False
    if found.get("kind") != FILE_KIND or found.get("status") not in FINISHED:
        return False
    _finished[path] = identity
    return True


def why_unreadable(path: Path) -> str:
    """Return why the system does not let a file be read, "" where it does or where there is none."""
    try:
        open_plain(path).close()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def read_outline(path: Path) -> Outline:
    """Return how the run of a result ended, by the file alone.

    Raises UserError for an HDF5 file that is no result, and for a result of a newer version; other errors as of
    `ppfl.results.hdf5.opened`.
    """
    with opened(path) as (file, has_seal):
        return _outline(file, path, has_seal)


def read_numbers(
    path: Path, series: Collection[str], metrics: Collection[str]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the named series, and the named final metrics as arrays (stage, statistic), of those that it has."""
    with opened(path) as (file, _):
        return _arrays(file, b"rounds", series), _arrays(file, b"summary", metrics)


def read_clients(path: Path, wanted: Callable[[str], bool]) -> tuple[tuple[str, ...], dict[str, Array]]:
    """Return the names of the clients, (M,), and those of their final scores and marks whose names are wanted, (M, …).

    Errors as of `ppfl.results.hdf5.opened`.
    """
    with opened(path) as (file, _):
        group = h5py.h5g.open(h5py.h5g.open(file, b"/"), b"clients")
        names = [name.decode() for name in group if name != b"client" and wanted(name.decode())]
        return _texts(group, b"client"), {name: _array(group, name.encode()) for name in names}


def _arrays(file: h5py.h5f.FileID, group: bytes, names: Collection[str]) -> dict[str, Array]:
    root = h5py.h5g.open(file, b"/")
    if not names or group not in root:
        return {}
    opened = h5py.h5g.open(root, group)
    return {name: _array(opened, name.encode()) for name in names if name.encode() in opened}


def _outline(file: h5py.h5f.FileID, path: Path, has_seal: bool) -> Outline:
    root = h5py.h5g.open(file, b"/")
    attrs = _attributes(root)
    if attrs.get("kind") != FILE_KIND:
        raise UserError(f"{path}: is an HDF5 file, but no result of ppfl; give files that runs wrote")
    check_attributes(path, attrs, has_seal=has_seal)
    attrs.pop(CHECKSUM, None)
    if missing := {"name", "digest", "config", "status"} - attrs.keys():
        raise KeyError(f"no attribute {', '.join(sorted(missing))}")
    provenance = {}
    if b"provenance" in root:
        provenance = _attributes(h5py.h5g.open(root, b"provenance"), (*PROVENANCE, PLUG_INS, SECONDS_SHARED_BY))
    rounds, clients, series = np.zeros(0, np.int64), None, {}
    if b"rounds" in root:
        group = h5py.h5g.open(root, b"rounds")
        for name in group:
            data = h5py.h5d.open(group, name)
            series[name.decode()] = (data.dtype, data.rank)
        rounds = _array(group, b"round")
        clients = _texts(group, b"client") if series.pop("client", None) else None
        series.pop("round")
        series.pop("partner", None)
    final: dict[str, tuple[str, ...]] = {}
    if b"summary" in root:
        group = h5py.h5g.open(root, b"summary")
        final = {"stages": _texts(group, b"stage"), "statistics": _texts(group, b"statistic")}
        final["summary"] = tuple(name.decode() for name in group if name not in (b"stage", b"statistic"))
    return Outline(str(attrs["status"]), "", attrs, provenance, rounds, clients, series, **final)


def _attributes(location: h5py.h5g.GroupID, wanted: Collection[str] | None = None) -> dict[str, Any]:
    if wanted is not None:
        names = [name.encode() for name in wanted if h5py.h5a.exists(location, name.encode())]
    else:
        names = [h5py.h5a.open(location, index=index).name for index in range(h5py.h5a.get_num_attrs(location))]
    return {name.decode(): _attribute(location, name) for name in names}


def _attribute(location: h5py.h5g.GroupID, name: bytes) -> Any:
    attribute = h5py.h5a.open(location, name)
    # read into memory of our own: h5py's higher interface takes ten times as long, and there are thousands of files
    value = np.empty(attribute.shape, attribute.dtype)
    attribute.read(value)
    item = value.item() if value.ndim == 0 else value
    return item.decode() if isinstance(item, bytes) else item


def _array(group: h5py.h5g.GroupID, name: bytes) -> Array:
    data = h5py.h5d.open(group, name)
    values = np.empty(data.shape, data.dtype)
    data.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def _texts(group: h5py.h5g.GroupID, name: bytes) -> tuple[str, ...]:
    return tuple(text.decode() if isinstance(text, bytes) else str(text) for text in _array(group, name))
