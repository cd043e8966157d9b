"""`ppfl collect`: the results of a grid to one file whose dimensions are what varies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ppfl.analysis.dimensions import Dimension, cells_of, encode, find_dimensions
from ppfl.analysis.sources import Source
from ppfl.core.errors import UserError
from ppfl.results.collection import FINAL, HAS, CollectionWriter, new_collection
from ppfl.results.layout import SECONDS_SHARED_BY
from ppfl.results.quick_reader import MISSING, PROVENANCE, Outline

Array = npt.NDArray[Any]

_FIXED = ("round", "client", "stage", "statistic", "status", "reason", "digest", "recorded", "scored", "case")
_STATUS_MEANING = (
    "complete; diverged: the curve ends early, as recorded; running: at work or stopped before its end; failed: see "
    "reason; missing: no result. Values that no run has recorded are NaN, or the fill value of whole numbers: those of "
    "rounds that `recorded` denies, stages that `scored` denies, and variables that has_<variable> denies."
)


@dataclass(frozen=True)
class _Plan:
    """What goes into the file: the union of what the runs have."""

    outlines: Sequence[Outline]
    """By cell; a cell without a run is a missing one."""
    runs: npt.NDArray[np.int64]
    """Number of the run of each cell, -1 for none."""
    rounds: npt.NDArray[np.int64]
    clients: tuple[str, ...]
    series: Mapping[str, tuple[np.dtype[Any], int]]
    metrics: tuple[str, ...]
    stages: tuple[str, ...]
    statistics: tuple[str, ...]


def collect(source: Source, out: Path, *, with_clients: bool = False) -> dict[str, int]:
    """Write all runs of a source to one file; return {dimension: size}.

    `with_clients` keeps the series over (round, client). Raises UserError when clients are wanted and differ between
    runs, when two runs have the same configuration, and when `out` cannot be written.
    """
    names = {name for run in source.outlines for name in (*run.series, *(FINAL + m for m in run.summary))}
    taken = frozenset({*_FIXED, *PROVENANCE, *names, "results_version", "num_rounds_recorded", SECONDS_SHARED_BY})
    dimensions = find_dimensions(source.settings, taken, is_whole=source.is_whole)
    _, runs = cells_of(dimensions)
    plan = _plan(source.outlines, runs, with_clients)
    with new_collection(out) as writer:
        _write_coordinates(writer, source, dimensions, plan)
        _write_states(writer, source, plan)
        _write_numbers(writer, source, plan)
    return {dimension.name: dimension.size for dimension in dimensions} | {"round": len(plan.rounds)}


def _plan(outlines: Sequence[Outline], runs: npt.NDArray[np.int64], with_clients: bool) -> _Plan:
    cells = [outlines[run] if run >= 0 else Outline(MISSING) for run in runs]
    distinct = {run.rounds.tobytes(): run.rounds for run in cells}
    rounds = np.unique(np.concatenate(list(distinct.values()))).astype(np.int64)
    series: dict[str, tuple[np.dtype[Any], int]] = {}
    clients: set[tuple[str, ...]] = set()
    for run in cells:
        for name, (dtype, rank) in run.series.items():
            # those of pairs of clients stay in the results, of which each may have megabytes
            if rank == 1 or (rank == 2 and with_clients):
                known = series.get(name, (dtype, rank))[0]
                series[name] = (np.promote_types(known, dtype), rank)
        if with_clients and run.clients is not None:
            clients.add(run.clients)
    if len(clients) > 1:
        raise UserError("--clients: the runs have different clients; collect without it, or runs of the same clients")
    return _Plan(
        cells, runs, rounds, next(iter(clients), ()), series if len(rounds) else {},
        _union(run.summary for run in cells), _union(run.stages for run in cells),
        _union(run.statistics for run in cells),
    )  # fmt: skip


def _union(parts: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part))


def _write_coordinates(writer: CollectionWriter, source: Source, dimensions: Sequence[Dimension], plan: _Plan) -> None:
    varying = set()
    for dimension in dimensions:
        for coordinate in dimension.coordinates:
            encoded = encode(coordinate.values)
            varying.add(coordinate.path)
            attributes = {"path": coordinate.path, "holds": encoded.holds}
            if encoded.holds == "bool":
                attributes["dtype"] = "bool"
            if coordinate.name == dimension.name:
                writer.add_dimension(coordinate.name, encoded.array, attributes)
            else:
                writer.add_variable(coordinate.name, [dimension.name], encoded.array, attributes)
    writer.set_grid([dimension.name for dimension in dimensions], 8 * len(plan.rounds) * max(len(plan.clients), 1))
    common = {key: value for key, value in source.settings[0].items() if key not in varying}
    keys = [key for key in _union(source.settings) if key in common or key in varying]
    coordinates = [coordinate.name for dimension in dimensions for coordinate in dimension.coordinates]
    writer.describe({"name": source.name, "common": json.dumps(common), "keys": json.dumps(keys)})
    writer.describe({"coordinates": " ".join(coordinates)} if coordinates else {})
    for name, values in (("round", plan.rounds), ("client", plan.clients), ("stage", plan.stages)):
        if len(values):
            writer.add_dimension(name, np.asarray(values), {})
    if plan.statistics:
        writer.add_dimension("statistic", np.asarray(plan.statistics), {})


def _write_states(writer: CollectionWriter, source: Source, plan: _Plan) -> None:
    """Write how every run ended, what it has and where it comes from."""

    def add(name: str, values: list[Any], **attributes: Any) -> None:
        array = np.array(values, dtype=object if isinstance(values[0], str) else None)
        writer.add_cells(name, array, {"ppfl": "cell", **attributes})

    add("status", [run.status for run in plan.outlines], meaning=_STATUS_MEANING)
    add("reason", [run.reason for run in plan.outlines])
    add("digest", [source.digests[run] if run >= 0 else "" for run in plan.runs])
    add("results_version", [int(run.attrs.get("results_version", 0)) for run in plan.outlines], meaning="0: no result")
    add("num_rounds_recorded", [len(run.rounds) for run in plan.outlines])
    meaning = "runs computed together, whose seconds are equal shares of their time; 1: alone; 0: no result"
    add(SECONDS_SHARED_BY, [run.seconds_shared_by * run.has_file for run in plan.outlines], meaning=meaning)
    for name in PROVENANCE:
        add(name, [str(run.provenance.get(name, "")) for run in plan.outlines])
    for name in plan.series:
        has = [name in run.series for run in plan.outlines if run.has_file]
        if not all(has):
            add(HAS + name, [np.int8(name in run.series) for run in plan.outlines], dtype="bool")
    for name in plan.metrics:
        has = [name in run.summary for run in plan.outlines if run.stages]
        if not all(has):
            add(HAS + FINAL + name, [np.int8(name in run.summary) for run in plan.outlines], dtype="bool")
    writer.describe({f"num_{status}": count for status, count in sorted(source.statuses.items())})


def _write_numbers(writer: CollectionWriter, source: Source, plan: _Plan) -> None:
    """Write series and final metrics block by block, one result open at a time."""
    flag = {"dtype": "bool"}
    everywhere = all(len(run.rounds) == len(plan.rounds) for run in plan.outlines)
    fills: dict[str, Any] = {}
    if plan.series:
        writer.declare("recorded", ["round"], np.dtype(np.int8), 0, flag)
    for name, (dtype, rank) in plan.series.items():
        has_gaps = not everywhere or any(name not in run.series for run in plan.outlines)
        # whole numbers have no NaN: the smallest one stands for "not recorded", and xarray is told so
        fills[name] = np.nan if dtype.kind == "f" else np.iinfo(dtype).min if has_gaps else 0
        attributes = {"ppfl": "series" if rank == 1 else "client series"}
        if has_gaps and dtype.kind != "f":
            attributes["_FillValue"] = fills[name]
        writer.declare(name, ["round", "client"][:rank], dtype, fills[name], attributes)
    if plan.metrics:
        writer.declare("scored", ["stage"], np.dtype(np.int8), 0, flag)
    for name in plan.metrics:
        writer.declare(FINAL + name, ["stage", "statistic"], np.dtype(np.float64), np.nan, {"ppfl": "final"})
    # a block is a few megabytes, also of a grid whose numbers do not fit into memory
    for place, cells in writer.blocks():
        for name, values in _block(source, plan, cells, fills).items():
            writer.write_block(name, place, values)


def _block(source: Source, plan: _Plan, cells: Array, fills: Mapping[str, Any]) -> dict[str, Array]:
    """Return the values (cell, …) of every large variable; what a run has not keeps the fill value."""
    extents = {name: (len(plan.rounds), len(plan.clients))[:rank] for name, (_, rank) in plan.series.items()}
    block = {
        name: np.full((len(cells), *extents[name]), fills[name], dtype) for name, (dtype, _) in plan.series.items()
    }
    block |= {"recorded": np.zeros((len(cells), len(plan.rounds)), np.int8)} if plan.series else {}
    block |= {"scored": np.zeros((len(cells), len(plan.stages)), np.int8)} if plan.metrics else {}
    final = (len(cells), len(plan.stages), len(plan.statistics))
    block |= {FINAL + name: np.full(final, np.nan) for name in plan.metrics}
    for row, cell in enumerate(cells):
        run = plan.outlines[cell]
        if not run.has_file:
            continue
        # one result is open at a time, since a grid may have more of them than a process may have open files
        series, metrics = source.read(int(plan.runs[cell]), plan.series, run.summary)
        places = np.searchsorted(plan.rounds, run.rounds)
        if plan.series:
            block["recorded"][row, places] = 1
        for name, values in series.items():
            # a run at work may have gone on since its rounds were counted
            block[name][row, places] = values[: len(places)]
        stages = [plan.stages.index(stage) for stage in run.stages]
        statistics = [plan.statistics.index(statistic) for statistic in run.statistics]
        for name, values in metrics.items():
            block["scored"][row, stages] = 1
            block[FINAL + name][row][np.ix_(stages, statistics)] = values
    return block
