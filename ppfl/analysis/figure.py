"""Curves to a figure: what varies becomes panels, colours and line styles; seeds become a median with a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ppfl.analysis.curves import Band, Curves, band
from ppfl.analysis.factors import Factor

MAX_COLUMNS = 4
LineStyle = Literal["-", "--", ":", "-."]
LINE_STYLES: tuple[LineStyle, ...] = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Okabe & Ito, "Color Universal Design", 2008: told apart with any colour vision
CATEGORICAL = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLE: Any = {
    "axes.grid": True,
    "axes.labelsize": 10.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.5,
    "font.size": 9.5,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "svg.hashsalt": "ppfl",
}
LABELS = {
    "operator_norm": r"operator norm $\|F(\theta)\|$",
    "test_accuracy": "test accuracy, mean over clients",
    "loss": r"loss $f(\theta, w)$, mean over clients",
}


@dataclass(frozen=True)
class Roles:
    """Which factors are panels, which one is colour, which one is line style."""

    panels: tuple[Factor, ...]
    colour: Factor | None
    style: Factor | None


def assign_roles(factors: Sequence[Factor]) -> Roles:
    """One factor: colour. Two: panels and colour. More: panels, colour and line style."""
    if len(factors) < 2:
        return Roles((), factors[0] if factors else None, None)
    if len(factors) == 2:
        return Roles((factors[0],), factors[1], None)
    return Roles(tuple(factors[:-2]), factors[-2], factors[-1])


def colours_of(factor: Factor | None) -> dict[str, str]:
    """Return a colour for each level: a dark-to-light scale for numbers, distinct hues for names."""
    if factor is None:
        return {"": CATEGORICAL[0]}
    levels = factor.levels
    if factor.numbers is None and len(levels) <= len(CATEGORICAL):
        return dict(zip(levels, CATEGORICAL, strict=False))
    scale = mpl.colormaps["viridis"](np.linspace(0.0, 0.82, len(levels)))
    return {level: mpl.colors.to_hex(colour) for level, colour in zip(levels, scale, strict=True)}


def draw_figure(curves: Curves) -> Figure:
    """Draw all curves of an experiment."""
    roles = assign_roles(curves.factors)
    panels: dict[tuple[str, ...], list[int]] = {}
    for combination in _combinations(roles.panels):
        members = [i for i in range(len(curves.curves)) if _labels(roles.panels, i) == combination]
        if members:
            panels[combination] = members
    num_columns = min(len(panels), MAX_COLUMNS)
    num_rows = -(-len(panels) // num_columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * num_columns + 2.3, 2.9 * num_rows + 0.3), layout="constrained")
        grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
        for axes, (combination, members) in zip(grid.flat, panels.items(), strict=False):
            _draw_panel(axes, curves, members, roles)
            titles = [f"{_short(f)} = {label}" for f, label in zip(roles.panels, combination, strict=True)]
            axes.set_title("\n".join(titles))
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes in grid[:, 0]:
            axes.set_ylabel(LABELS[curves.metric])
        for axes in grid[-1]:
            axes.set_xlabel("communication round")
        _scale(grid.flat[0], curves.metric)
        _add_legend(figure, curves, roles)
    return figure


def save_figure(figure: Figure, paths: Sequence[Path]) -> None:
    """Write a figure, the format by the ending of each path; equal figures give equal files."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(STYLE):
            figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def _combinations(factors: Sequence[Factor]) -> list[tuple[str, ...]]:
    combinations: list[tuple[str, ...]] = [()]
    for factor in factors:
        combinations = [(*combination, level) for combination in combinations for level in factor.levels]
    return combinations


def _labels(factors: Sequence[Factor], run: int) -> tuple[str, ...]:
    return tuple(factor.labels[run] for factor in factors)


def _draw_panel(axes: Axes, curves: Curves, members: list[int], roles: Roles) -> None:
    colours = colours_of(roles.colour)
    styles = roles.style.levels if roles.style else [""]
    for number, (level, colour) in enumerate(colours.items()):
        for style_number, style_level in enumerate(styles):
            chosen = [
                curves.curves[i]
                for i in members
                if (roles.colour is None or roles.colour.labels[i] == level)
                and (roles.style is None or roles.style.labels[i] == style_level)
            ]
            if chosen:
                line_style = LINE_STYLES[style_number % len(LINE_STYLES)]
                _draw_band(axes, band(chosen), colour, line_style, MARKERS[number % len(MARKERS)], number)


def _draw_band(axes: Axes, runs: Band, colour: str, line_style: LineStyle, marker: str, number: int) -> None:
    # markers sit at different rounds for each colour, so that curves which coincide are all seen
    spacing = max(len(runs.rounds) // 5, 1)
    axes.plot(
        runs.rounds, runs.median, color=colour, linestyle=line_style, marker=marker, markersize=4.5,
        markevery=((number * spacing) // 4 % spacing, spacing),
    )  # fmt: skip
    if runs.num_runs > 1:
        axes.fill_between(runs.rounds, runs.lowest, runs.highest, color=colour, alpha=0.2, linewidth=0)
    finite = np.flatnonzero(np.isfinite(runs.median))
    if finite.size and (runs.num_diverged or runs.num_running):
        last = finite[-1]
        end = "x" if runs.num_diverged else ">"
        axes.plot(runs.rounds[last], runs.median[last], marker=end, color=colour, markersize=8, markeredgewidth=2)


def _scale(axes: Axes, metric: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    if metric == "test_accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.set_yscale("log")


def _add_legend(figure: Figure, curves: Curves, roles: Roles) -> None:
    handles: list[Line2D] = []
    if roles.colour:
        handles.append(_heading(_short(roles.colour)))
        for number, (level, colour) in enumerate(colours_of(roles.colour).items()):
            marker = MARKERS[number % len(MARKERS)]
            handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, label=level))
    if roles.style:
        handles.append(_heading(_short(roles.style)))
        for number, level in enumerate(roles.style.levels):
            style = LINE_STYLES[number % len(LINE_STYLES)]
            handles.append(Line2D([], [], color="0.3", linestyle=style, label=level))
    handles += _legend_notes(curves)
    if not handles:
        return
    legend = figure.legend(handles=handles, loc="outside right upper", alignment="left")
    for text in legend.get_texts():
        if text.get_text() in {_short(f) for f in (roles.colour, roles.style) if f}:
            text.set_fontweight("bold")


def _legend_notes(curves: Curves) -> list[Line2D]:
    notes = []
    labels = [_labels(curves.factors, i) for i in range(len(curves.curves))]
    repeats = max(labels.count(label) for label in labels)
    if repeats > 1:
        notes.append(_heading(f"line: median of {repeats} seeds\nband: lowest to highest"))
    statuses = {curve.status for curve in curves.curves}
    for status, marker in (("diverged", "x"), ("running", ">")):
        if status in statuses:
            label = status if status == "diverged" else "incomplete"
            notes.append(Line2D([], [], color="0.3", linestyle="", marker=marker, markeredgewidth=2, label=label))
    return notes


def _short(factor: Factor) -> str:
    """Return the last two parts of each key: enough to recognize it, short enough for a heading."""
    return ", ".join(".".join(key.split(".")[-2:]) for key in factor.keys)


def _heading(text: str) -> Line2D:
    return Line2D([], [], linestyle="", label=text)
