"""Reads a collected grid back into runs, as if their results lay there."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ppfl.core.errors import UserError
from ppfl.results.collection import FINAL, HAS
from ppfl.results.hdf5 import check_attributes, open_unlocked, opened, refuse_newer
from ppfl.results.layout import SECONDS_SHARED_BY
from ppfl.results.quick_reader import PROVENANCE, Outline
from ppfl.results.seal import DamagedError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Collected:
    """The runs of a collected grid in the order of its cells; sequences are as long as there are cells."""

    path: Path
    name: str
    settings: tuple[dict[str, Any], ...]
    """What varies, by its whole key, and what all runs have in common."""
    digests: tuple[str, ...]
    outlines: tuple[Outline, ...]
    _loaded: dict[str, Array]

    def read(
        self, number: int, series: Collection[str], metrics: Collection[str]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return those of the named series and final metrics that a run has, as its result has them."""
        run = self.outlines[number]
        rounds = np.isin(self._variable("round"), run.rounds)
        stages = np.isin(self._variable("stage"), run.stages) if run.summary else None
        found = {name: self._variable(name)[number][rounds] for name in series if name in run.series}
        found |= {"round": run.rounds} if "round" in series else {}
        return found, {name: self._variable(FINAL + name)[number][stages] for name in metrics if name in run.summary}

    def _variable(self, name: str) -> Array:
        """Return a variable (cell, …); chunks hold many cells, so it is read once and whole."""
        if name not in self._loaded:
            with open_unlocked(self.path) as file:  # its checksum was compared when the rest was read
                self._loaded[name] = _over_cells(file, name)
        return self._loaded[name]


def open_collection(path: Path) -> Collected:
    """Read how the runs of a collected grid ended and what varies.

    Raises UserError for a damaged file, and for one with results of a newer version.
    """
    try:
        with opened(path) as (identifier, has_seal):
            file = h5py.File(identifier)
            check_attributes(path, dict(file.attrs), has_seal=has_seal)
            settings = _settings(file)
            digests = tuple(_over_cells(file, "digest").tolist())
            outlines = _outlines(file)
            refuse_newer(path, max((run.attrs.get("results_version", 0) for run in outlines), default=0))
            return Collected(path, str(file.attrs["name"]), settings, digests, outlines, {})
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except DamagedError as error:
        raise DamagedError(f"{error}; collect it anew") from error


def _settings(file: h5py.File) -> tuple[dict[str, Any], ...]:
    grid = json.loads(file.attrs["grid"])
    shape = tuple(file[name].shape[0] for name in grid)
    common = json.loads(file.attrs["common"])
    columns = {}
    for name, data in file.items():
        path = data.attrs.get("path")
        if path:
            # several keys may vary together: one of them names the dimension, the others lie along it
            dimension = name if name in grid else data.dims[0][0].name.removeprefix("/")
            columns[path] = (np.indices(shape)[grid.index(dimension)].ravel(), _values(data))
    found = []
    for cell in range(prod(shape)):
        settings = common | {path: values[levels[cell]] for path, (levels, values) in columns.items()}
        found.append({key: settings[key] for key in json.loads(file.attrs["keys"])})
    return tuple(found)


def _values(data: h5py.Dataset) -> list[Any]:
    holds = data.attrs["holds"]
    if holds == "number":
        return list(data[()].tolist())
    if holds == "bool":
        return [bool(value) for value in data[()]]
    texts = data.asstr()[()].tolist()
    return [_value_of(text) for text in texts] if holds == "mixed" else texts


def _value_of(text: str) -> Any:
    """Return what a text of a mixture stands for; a text stands for itself where no other value is written alike."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _over_cells(file: h5py.File, name: str) -> Array:
    data = file[name]
    values = np.asarray(data.asstr()[()] if h5py.check_string_dtype(data.dtype) else data[()])
    if name in ("round", "stage", "statistic"):
        return values
    rank = len(json.loads(file.attrs["grid"]))
    return values.reshape(prod(values.shape[:rank]), *values.shape[rank:])


def _outlines(file: h5py.File) -> tuple[Outline, ...]:
    status, reason = (_over_cells(file, name).tolist() for name in ("status", "reason"))
    cells: dict[str, Array] = {
        name: _over_cells(file, name) for name, data in file.items() if data.attrs.get("ppfl") == "cell"
    }
    rounds = _over_cells(file, "round") if "round" in file else np.zeros(0, np.int64)
    recorded = _over_cells(file, "recorded") != 0 if "round" in file else np.zeros((len(status), 0), bool)
    stages, statistics = (_over_cells(file, name) if name in file else np.zeros(0) for name in ("stage", "statistic"))
    scored = _over_cells(file, "scored") != 0 if "stage" in file else np.zeros((len(status), 0), bool)
    series = {name: (data.dtype, 1) for name, data in file.items() if data.attrs.get("ppfl") == "series"}
    metrics = [name for name, data in file.items() if data.attrs.get("ppfl") == "final"]
    found = []
    for cell in range(len(status)):
        has_file = cells["results_version"][cell] > 0
        found.append(
            Outline(
                status=status[cell],
                reason=reason[cell],
                attrs={"results_version": int(cells["results_version"][cell])} if has_file else {},
                provenance=_provenance(cells, cell),
                rounds=rounds[recorded[cell]],
                series={name: kind for name, kind in series.items() if has_file and _has(cells, name, cell)},
                summary=tuple(
                    name.removeprefix(FINAL) for name in metrics if scored[cell].any() and _has(cells, name, cell)
                ),
                stages=tuple(map(str, stages[scored[cell]])),
                statistics=tuple(map(str, statistics)) if scored[cell].any() else (),
            )
        )
    return tuple(found)


def _provenance(cells: Mapping[str, Array], cell: int) -> dict[str, Any]:
    found = {name: cells[name][cell] for name in PROVENANCE if cells[name][cell]}
    shared_by = cells.get(SECONDS_SHARED_BY)  # not in collections of version 3
    return found | ({SECONDS_SHARED_BY: int(shared_by[cell])} if shared_by is not None and shared_by[cell] > 1 else {})


def _has(cells: Mapping[str, Array], name: str, cell: int) -> bool:
    return HAS + name not in cells or bool(cells[HAS + name][cell])
