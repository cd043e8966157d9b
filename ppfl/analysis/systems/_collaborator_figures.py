"""The figures of who works with whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ppfl.analysis.figure import CATEGORICAL, STYLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from ppfl.analysis.systems.collaborators import Found


def mixings(digits: Found, mnist: Found) -> Figure:
    """W of each λ as an image."""
    shown = [("digits", digits, name) for name in digits.penalties] + [
        ("mnist20", mnist, name) for name in mnist.penalties
    ]
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(2.2 * len(shown) + 0.8, 2.6), layout="constrained")
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, (data, found, name) in zip(panels, shown, strict=True):
            image = axes.imshow(found.mixings[name], vmin=0, vmax=1, cmap="viridis")
            axes.set_title(f"{data}, {name}")
            axes.set_xticks([])
            axes.set_yticks([])
        figure.colorbar(image, ax=list(panels), label="weight")
    return figure


def penalties(found: Mapping[str, Found]) -> Figure:
    """The final score against λ, a panel for each file."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(found), 3.0), layout="constrained")
        for axes, (name, of) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
            _draw_penalties(axes, of)
            axes.set_title(name.partition("-")[2])
            axes.set_ylabel(of.metric.replace("_", " "))
            if of.metric.endswith("error"):
                axes.set_yscale("log")
        axes.legend()
    return figure


def _draw_penalties(axes: Axes, found: Found) -> None:
    along = [float(name[4:]) for name in found.penalties]
    of_seeds = np.array([found.scores[name] for name in found.penalties])
    low, high, of_method = of_seeds.min(axis=1), of_seeds.max(axis=1), CATEGORICAL[0]
    axes.fill_between(along, low, high, color=of_method, alpha=0.2, linewidth=0)
    axes.plot(along, np.median(of_seeds, axis=1), "o-", color=of_method, label="pFedGraph")
    for colour, name in zip(CATEGORICAL[1:], ("fedavg", "local", "oracle"), strict=False):
        axes.axhline(float(np.median(found.scores[name])), color=colour, linestyle="--", label=name)
    axes.set_xscale("log")
    axes.set_xticks(along, [f"{penalty:g}" for penalty in along])
    axes.minorticks_off()
    axes.set_xlabel("λ")


def heads(digits: Found) -> Figure:
    """A point for each seed of each method, with heads of their own in another colour."""
    best = max(digits.penalties, key=digits.mean)
    names = [
        "fedavg",
        "local",
        best,
        "oracle",
        *(f"{name}, head" for name in ("fedsim", "fedalt", "ffgg", "pfedgraph")),
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.0), layout="constrained")
        axes = figure.subplots()
        for row, name in enumerate(names):
            colour = CATEGORICAL[1] if name.endswith("head") else CATEGORICAL[0]
            axes.plot(digits.scores[name], [row] * len(digits.scores[name]), "o", color=colour)
        axes.set_yticks(range(len(names)), [f"pfedgraph, {name}" if name == best else name for name in names])
        axes.set_xlabel("test accuracy, mean over clients")
        axes.invert_yaxis()
    return figure
