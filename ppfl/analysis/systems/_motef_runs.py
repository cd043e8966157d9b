"""What the parts of the study of MoTEF ask of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ppfl.analysis.figure import CATEGORICAL, STYLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from ppfl.analysis.systems.runs import Run

PAPER = "arXiv 2405.20114 (Islamov, Gao, Stich)"
REPLICA = "measured in a replica in NumPy"
NEW = "asked here: nobody claims it"
DSGD, CHOCO, TRACKING, BEER, MOTEF = "dsgd", "choco_sgd", "gradient_tracking", "beer", "motef"
NAMES = {DSGD: "DSGD", CHOCO: "Choco-SGD", TRACKING: "gradient tracking", BEER: "BEER", MOTEF: "MoTEF"}
COLOURS = dict(zip(NAMES, CATEGORICAL, strict=False))
_LAST = 4
"""What a run comes to is the median of the last so-manieth part of its evaluations."""


def grouped(runs: Sequence[Run], key: Callable[[Run], str]) -> dict[str, list[Run]]:
    """Return the runs by a key."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs by the name of their method."""
    return grouped(runs, lambda run: run.config.algorithm.name)


def series(run: Run, name: str) -> NDArray[np.float64]:
    """Return a score or a cost over the evaluations of a run."""
    return np.asarray(run.result.rounds[name].to_numpy(), dtype=np.float64)


def squared_norms(run: Run) -> NDArray[np.float64]:
    """Return ‖∇f(x̄)‖²."""
    # quadratics have no samples, and nothing local that θ depends on: there ‖F(x̄)‖ is the norm of the gradient
    if "squared_gradient_norm" in run.result.rounds:
        return series(run, "squared_gradient_norm")
    return series(run, "operator_norm") ** 2


def end(run: Run) -> float:
    """Return the median of ‖∇f(x̄)‖² over the last quarter of evaluations; inf where the run diverged."""
    found = squared_norms(run)
    # of noisy runs a single evaluation is anything within a factor of ten
    return float(np.median(found[-max(1, len(found) // _LAST) :])) if run.is_complete else float("inf")


def median_end(runs: Sequence[Run]) -> float:
    """Return the median of `end` over seeds."""
    return float(np.median([end(run) for run in runs]))


def told(values: Mapping[str, float], digits: int = 1) -> str:
    """Return numbers by the names of their methods, in a sentence."""
    return ", ".join(f"{NAMES.get(name, name)} {value:.{digits}e}" for name, value in values.items())


def link_megabytes(run: Run) -> NDArray[np.float64]:
    """Return what went over all links, up and down, in 10⁶ bytes."""
    return (series(run, "uplink_bytes") + series(run, "downlink_bytes")) / 1e6


def megabits_of_node(run: Run) -> NDArray[np.float64]:
    """Return what a node has sent to each of its two neighbours on a ring, in 10⁶ bits."""
    return 8.0 * series(run, "uplink_bytes") / (2 * len(run.result.clients["client"])) / 1e6


def panels(columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure, and its panels row by row."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.9 * columns + 0.6, 3.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def draw(
    axes: Axes,
    runs: Sequence[Run],
    x: Callable[[Run], NDArray[np.float64]],
    y: Callable[[Run], NDArray[np.float64]],
    label: str,
    colour: str,
    style: str = "-",
) -> None:
    """Draw the median over seeds, and from the lowest to the highest of them; runs that diverged are left out."""
    complete = [run for run in runs if run.is_complete]
    # a short run may have none, and a picture without a curve says so
    if not complete:
        return
    values = np.array([y(run) for run in complete])
    # bytes and rounds are the same for all seeds
    across = x(complete[0])
    axes.plot(across, np.median(values, axis=0), style, color=colour, label=label)
    if len(values) > 1:
        axes.fill_between(across, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
