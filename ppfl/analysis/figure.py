"""Curves to a figure: what varies becomes panels, colours and line styles; seeds become a median with a band."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from ppfl.analysis.curves import Band, Curves, band
from ppfl.analysis.factors import Factor
from ppfl.analysis.roles import Roles, assign_roles
from ppfl.analysis.tables import STATUS_TEXT
from ppfl.core.errors import in_one_line
from ppfl.core.files import write_whole

MAX_COLUMNS = 4
_LINE = 42
"""Characters that fit above a panel."""
_MAX_LABEL = 100
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
X_LABELS = {
    "round": "communication round",
    "seconds": "seconds in rounds",
    "virtual-seconds": "virtual seconds",
    "uplink-bytes": "bytes sent by clients",
    "bytes": "bytes sent, up and down",
    "gradients": "gradients, shared and local",
}
LOG_DECADES = 2.0
"""A metric that is never negative gets a logarithmic scale when it spans more than this."""


def colours_of(factor: Factor | None) -> dict[str, str]:
    """Return a colour for each level: a dark-to-light scale for numbers, distinct hues for names."""
    if factor is None:
        return {"": CATEGORICAL[0]}
    levels = factor.levels
    if factor.numbers is None and len(levels) <= len(CATEGORICAL):
        return dict(zip(levels, CATEGORICAL, strict=False))
    scale = mpl.colormaps["viridis"](np.linspace(0.0, 0.82, len(levels)))
    return {level: mpl.colors.to_hex(colour) for level, colour in zip(levels, scale, strict=True)}


def draw_figure(curves: Curves, panel: str | None = None, colour: str | None = None) -> Figure:
    """Draw all curves of an experiment; `panel` and `colour` are keys that are to have these roles.

    Raises UserError when too much varies for one figure.
    """
    roles = assign_roles(curves.factors, panel, colour)
    panels: dict[tuple[str, ...], list[int]] = {}
    for combination in _combinations(roles.panels):
        members = [i for i in range(len(curves.curves)) if _labels(roles.panels, i) == combination]
        if members:
            panels[combination] = members
    num_columns = min(len(panels), MAX_COLUMNS)
    num_rows = -(-len(panels) // num_columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * num_columns + _legend_inches(roles), 2.9 * num_rows + 0.3), layout="constrained")
        grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
        for axes, (combination, members) in zip(grid.flat, panels.items(), strict=False):
            _draw_panel(axes, curves, members, roles)
            titles = [f"{_short(f)} = {_shown(label)}" for f, label in zip(roles.panels, combination, strict=True)]
            axes.set_title("\n".join(map(_wrapped, titles)), parse_math=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes in grid[:, 0]:
            label = LABELS.get(curves.metric, curves.metric.replace("_", " "))
            axes.set_ylabel(label, parse_math=curves.metric in LABELS)
        for axes in grid[-1]:
            axes.set_xlabel(X_LABELS[curves.x])
        _scale(grid.flat[0], curves)
        _add_legend(figure, curves, roles)
        below = [*([f"not drawn: {curves.absent}"] if curves.absent else []), *curves.notes]
        if below:
            figure.supxlabel("\n".join(below), fontsize=8.5, x=0.01, ha="left", parse_math=False)
    return figure


def save_figure(figure: Figure, paths: Sequence[Path]) -> None:
    """Write a figure, the format by the ending of each path; equal figures give equal files."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = BytesIO()
        metadata = {"Date": None} if path.suffix == ".svg" else None
        with mpl.rc_context(STYLE):
            figure.savefig(image, format=path.suffix[1:] or None, dpi=200, metadata=metadata)
        write_whole(path, image.getvalue())


def _legend_inches(roles: Roles) -> float:
    factors = [factor for factor in (roles.colour, roles.style) if factor]
    texts = [_wrapped(text) for factor in factors for text in (_short(factor), *map(_shown, factor.levels))]
    lines = [line for text in texts for line in text.split("\n")]
    return max(2.3, 0.6 + 0.075 * max(map(len, lines), default=0))


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
    spacing = max(len(runs.x) // 5, 1)
    axes.plot(
        runs.x, runs.median, color=colour, linestyle=line_style, marker=marker, markersize=4.5,
        markevery=((number * spacing) // 4 % spacing, spacing),
    )  # fmt: skip
    if runs.num_runs > 1:
        axes.fill_between(runs.x, runs.lowest, runs.highest, color=colour, alpha=0.2, linewidth=0)
    finite = np.flatnonzero(np.isfinite(runs.median))
    if finite.size and (runs.num_diverged or runs.num_incomplete):
        last = finite[-1]
        end = "x" if runs.num_diverged else ">"
        axes.plot(runs.x[last], runs.median[last], marker=end, color=colour, markersize=8, markeredgewidth=2)


def _scale(axes: Axes, curves: Curves) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=curves.x == "round"))
    if curves.x in ("uplink-bytes", "gradients"):
        axes.xaxis.set_major_formatter(EngFormatter(sep="\N{THIN SPACE}"))
    if curves.metric.endswith(("accuracy", "backdoor_success")):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        return
    values = np.concatenate([curve.values[np.isfinite(curve.values)] for curve in curves.curves])
    positive = values[values > 0]
    if positive.size and not (values < 0).any() and np.log10(positive.max() / positive.min()) > LOG_DECADES:
        axes.set_yscale("log")


def _add_legend(figure: Figure, curves: Curves, roles: Roles) -> None:
    handles: list[Line2D] = []
    if roles.colour:
        handles.append(_heading(_wrapped(_short(roles.colour))))
        for number, (level, colour) in enumerate(colours_of(roles.colour).items()):
            marker = MARKERS[number % len(MARKERS)]
            handles.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, label=_in_legend(level)))
    if roles.style:
        handles.append(_heading(_wrapped(_short(roles.style))))
        for number, level in enumerate(roles.style.levels):
            style = LINE_STYLES[number % len(LINE_STYLES)]
            handles.append(Line2D([], [], color="0.3", linestyle=style, label=_in_legend(level)))
    handles += _legend_notes(curves)
    if not handles:
        return
    legend = figure.legend(handles=handles, loc="outside right upper", alignment="left")
    for text in legend.get_texts():
        text.set_parse_math(False)
        if text.get_text() in {_wrapped(_short(f)) for f in (roles.colour, roles.style) if f}:
            text.set_fontweight("bold")
    # the layout makes room beside the panels and not below them
    needed_inches = legend.get_window_extent().height / figure.dpi + 0.2
    figure.set_figheight(max(figure.get_figheight(), needed_inches))


def _legend_notes(curves: Curves) -> list[Line2D]:
    notes = []
    labels = [_labels(curves.factors, i) for i in range(len(curves.curves))]
    repeats = max(labels.count(label) for label in labels)
    if repeats > 1:
        notes.append(_heading(f"line: median of {repeats} seeds\nband: lowest to highest"))
    ends = {STATUS_TEXT[curve.status] for curve in curves.curves}
    for label, marker in (("diverged", "x"), ("incomplete", ">")):
        if label in ends:
            notes.append(Line2D([], [], color="0.3", linestyle="", marker=marker, markeredgewidth=2, label=label))
    return notes


def _short(factor: Factor) -> str:
    """Return the last two parts of each key: enough to recognize it, short enough for a heading."""
    return ", ".join(".".join(key.split(".")[-2:]) for key in factor.told or factor.keys)


def _shown(label: str) -> str:
    """Return a label in one line, of bearable length."""
    text = in_one_line(label)
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 1]}…"


def _in_legend(label: str) -> str:
    # matplotlib leaves out what begins with an underscore
    text = _wrapped(_shown(label))
    return f"\N{WORD JOINER}{text}" if text.startswith("_") else text


def _wrapped(text: str) -> str:
    """Return a text in lines that a panel has room for."""
    return "\n".join(textwrap.wrap(text, _LINE, subsequent_indent="  ")) or text


def _heading(text: str) -> Line2D:
    return Line2D([], [], linestyle="", label=text)
