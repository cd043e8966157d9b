"""What a figure of the paper is made of: a picture, what theory says of it, and how far the runs are from that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppfl.analysis.figure import STYLE, save_figure
from ppfl.analysis.paper.runs import Floats, Spread, spread
from ppfl.core.files import write_whole

PREDICTED = {"color": "black", "linewidth": 1.0, "linestyle": (0, (4, 2)), "zorder": 5}
OPERATOR = r"$\|F(\theta)\|$"


@dataclass(frozen=True)
class Words:
    """What the report says beside a figure; `rows` has one text a column."""

    title: str
    shown: str
    predicted: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Exhibit:
    """A figure and the words to it."""

    figure: Figure
    words: Words

    def save(self, stem: Path) -> None:
        """Write `<stem>.svg`, `.png` and `.json`."""
        save_figure(self.figure, [stem.with_suffix(".svg"), stem.with_suffix(".png")])
        write_whole(stem.with_suffix(".json"), json.dumps(asdict(self.words), indent=1).encode())


def panels(rows: int, columns: int, legend_width: float = 2.2, same_y: bool = True) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with a grid of logarithmic axes; `same_y`: those of a row share theirs."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * columns + legend_width, 2.8 * rows + 0.3), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey="row" if same_y else False)
    for row in axes:
        row[0].set_ylabel(OPERATOR)
        for one in row:
            one.set_yscale("log")
    return figure, [list(row) for row in axes]


def draw_runs(axes: Axes, x: Floats, values: Spread, colour: str, label: str, style: str = "-") -> None:
    """Draw a median and, behind it, the band from the lowest to the highest seed."""
    x = x[: len(values.median)]
    finite = np.isfinite(values.median) & (values.median < 1e12)
    axes.plot(x[finite], values.median[finite], color=colour, linestyle=style, label=label)
    if np.any(values.highest > values.lowest):
        axes.fill_between(
            x[finite], values.lowest[finite], values.highest[finite], color=colour, alpha=0.2, linewidth=0
        )
    if not finite.all():
        last = np.flatnonzero(finite)[-1]
        axes.plot(x[last], values.median[last], marker="x", color=colour, markersize=7, markeredgewidth=2)


def draw_prediction(axes: Axes, x: Floats, y: Floats, label: str = "predicted") -> None:
    """Draw what theory says, thin and dashed."""
    axes.plot(x, y, label=label, **PREDICTED)  # type: ignore[arg-type]


def draw_floor(axes: Axes, height: float, colour: str) -> None:
    """Draw a predicted floor in the colour of its curve."""
    axes.axhline(height, color=colour, linewidth=1.0, linestyle=(0, (1, 1.5)))


def add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Name every label once, beside the panels."""
    named: dict[str, Artist] = {}
    for one in axes:
        named |= {label: handle for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    with mpl.rc_context(STYLE):
        figure.legend(list(named.values()), list(named), loc="outside right upper", alignment="left")


def text(value: float) -> str:
    """Return three significant digits."""
    if not np.isfinite(value):
        return "diverged"
    return f"{value:.3g}"


def ratios(runs: Sequence[float], predicted: Sequence[float]) -> str:
    """Return how many times its prediction a run is, seed by seed: the median, and from the lowest to the highest.

    Not the ratio of two medians, which may be those of different seeds.
    """
    if not np.isfinite([*runs, *predicted]).all() or min(predicted) <= 0:
        return "–"
    found = spread([run / expected for run, expected in zip(runs, predicted, strict=True)])
    median, lowest, highest = (text(float(value[0])) for value in (found.median, found.lowest, found.highest))
    return f"{median} ×" if lowest == highest else f"{median} × ({lowest} to {highest})"


def median(values: Sequence[float]) -> float:
    """Return the median over seeds."""
    return float(np.median(values))
