"""One metric against rounds or costs, for every run of an experiment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from ppfl.analysis.dimensions import case_factor, short_names, split_cases
from ppfl.analysis.factors import Factor, find_factors, restricted
from ppfl.analysis.shared_seconds import check_seconds
from ppfl.analysis.sources import Source
from ppfl.core.errors import UserError

Floats = npt.NDArray[np.float64]

METRICS = ("operator_norm", "test_accuracy", "loss")
"""What a figure shows unless asked: the first of these that the results have."""
X_AXES = {
    "round": (),
    "seconds": ("seconds",),
    "virtual-seconds": ("virtual_seconds",),
    "uplink-bytes": ("uplink_bytes",),
    "bytes": ("uplink_bytes", "downlink_bytes"),
    "gradients": ("shared_gradients", "local_gradients"),
}
"""What a metric can be drawn against, and the costs that make it up."""


@dataclass(frozen=True)
class Curve:
    """A metric of one run at its evaluated rounds; `x` is what it is drawn against there."""

    digest: str
    status: str
    rounds: npt.NDArray[np.int64]
    x: Floats
    values: Floats


@dataclass(frozen=True)
class Curves:
    """Curves of an experiment; labels of `factors` are in the order of `curves`."""

    name: str
    metric: str
    x: str
    factors: tuple[Factor, ...]
    curves: tuple[Curve, ...]
    absent: str
    """Which runs are not there, in words; empty when all are."""
    notes: tuple[str, ...]
    """What a user must know before comparing the curves."""


@dataclass(frozen=True)
class Band:
    """Runs that differ in their seeds alone, on the rounds that all of them have: median, lowest and highest."""

    rounds: npt.NDArray[np.int64]
    x: Floats
    """Median over runs at each of the rounds."""
    median: Floats
    lowest: Floats
    highest: Floats
    num_runs: int
    num_diverged: int
    num_incomplete: int


def load_curves(source: Source, metric: str | None = None, x: str = "round", keep: Collection[str] = ()) -> Curves:
    """Read one metric of all runs that have begun; raises UserError when they lack it, or what it is drawn against.

    Keys that form no product with others are joined to one factor, apart from those that end like one of `keep`.
    """
    begun = [number for number, run in enumerate(source.outlines) if len(run.rounds)]
    if not begun:
        raise UserError(
            f"{source.name}: no run has recorded a round yet ({_counts(source, range(len(source.digests)))})"
        )
    available = source.series_names()
    if metric is None:
        metric = next((name for name in METRICS if name in available), available[0])
    for name in (metric, *X_AXES[x]):
        if name not in available:
            option = "--metric" if name == metric else f"--x {x}"
            raise UserError(f"{option}: the runs have no {name}; they all have: {', '.join(available)}")
    of_metric = check_seconds(source, [metric], f"--metric {metric}")
    of_axis = check_seconds(source, X_AXES[x], f"--x {x}")
    curves = []
    for number in begun:
        series, _ = source.read(number, ("round", metric, *X_AXES[x]), ())
        costs = [series[name] for name in X_AXES[x]]
        along = np.sum(costs, axis=0) if costs else series["round"]
        status = source.outlines[number].status
        curves.append(Curve(source.digests[number], status, series["round"], along.astype(np.float64), series[metric]))
    factors = restricted(_factors(source, keep), begun)
    absent = _counts(source, sorted(set(range(len(source.digests))) - set(begun)))
    notes = tuple(dict.fromkeys([*of_metric, *of_axis]))
    return Curves(source.name, metric, x, factors, tuple(curves), absent, notes)


def _factors(source: Source, keep: Collection[str]) -> list[Factor]:
    factors = find_factors(source.settings)
    keys = [key for factor in factors for key in factor.keys]
    kept = [key for key in keys for end in keep if f".{key}".endswith(f".{end}")]
    apart, rest = split_cases(factors, source.settings, is_whole=source.is_whole, keep=kept)
    return (
        [*apart, case_factor(rest, source.settings, short_names(keys, frozenset(), source.settings))] if rest else apart
    )


def _counts(source: Source, numbers: Sequence[int]) -> str:
    counts = source.subset(numbers).statuses
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def band(curves: Sequence[Curve]) -> Band:
    """Summarize runs over seeds."""
    rounds = reduce(np.intersect1d, [curve.rounds for curve in curves])
    kept = [np.isin(curve.rounds, rounds) for curve in curves]
    values = np.stack([curve.values[keep] for curve, keep in zip(curves, kept, strict=True)])
    along = np.stack([curve.x[keep] for curve, keep in zip(curves, kept, strict=True)])
    return Band(
        rounds=rounds,
        x=np.median(along, axis=0),
        median=np.median(values, axis=0),
        lowest=values.min(axis=0),
        highest=values.max(axis=0),
        num_runs=len(curves),
        num_diverged=sum(curve.status == "diverged" for curve in curves),
        num_incomplete=sum(curve.status not in ("complete", "diverged") for curve in curves),
    )
