"""One metric against rounds, for every run of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppfl.analysis.factors import Factor, find_factors
from ppfl.results.reader import open_result

Floats = npt.NDArray[np.float64]

METRICS = ("operator_norm", "test_accuracy", "loss")
"""What a figure shows: the first of these that the results have."""


@dataclass(frozen=True)
class Curve:
    """A metric of one run; `status` is complete, running or diverged."""

    digest: str
    status: str
    rounds: npt.NDArray[np.int64]
    values: Floats


@dataclass(frozen=True)
class Curves:
    """Curves of an experiment; labels of `factors` are in the order of `curves`."""

    name: str
    metric: str
    factors: tuple[Factor, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Band:
    """Runs that differ in their seeds alone, on the rounds that all of them have: median, lowest and highest."""

    rounds: npt.NDArray[np.int64]
    median: Floats
    lowest: Floats
    highest: Floats
    num_runs: int
    num_diverged: int
    num_running: int


def load_curves(paths: Sequence[Path]) -> Curves:
    """Read the metric of all runs of one experiment; raises ValueError when there are none."""
    if not paths:
        raise ValueError("a figure needs at least one result")
    results = [open_result(path) for path in paths]
    metric = next(name for name in METRICS if all(name in result.rounds for result in results))
    curves = tuple(
        Curve(
            digest=str(result.attrs["digest"]),
            status=str(result.attrs["status"]),
            rounds=result.rounds["round"].to_numpy(),
            values=result.rounds[metric].to_numpy(),
        )
        for result in results
    )
    factors = tuple(find_factors([result.config for result in results]))
    return Curves(str(results[0].attrs["name"]), metric, factors, curves)


def band(curves: Sequence[Curve]) -> Band:
    """Summarize runs over seeds."""
    rounds = reduce(np.intersect1d, [curve.rounds for curve in curves])
    values = np.stack([curve.values[np.isin(curve.rounds, rounds)] for curve in curves])
    return Band(
        rounds=rounds,
        median=np.median(values, axis=0),
        lowest=values.min(axis=0),
        highest=values.max(axis=0),
        num_runs=len(curves),
        num_diverged=sum(curve.status == "diverged" for curve in curves),
        num_running=sum(curve.status == "running" for curve in curves),
    )
