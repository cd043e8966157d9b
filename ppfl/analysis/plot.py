"""From runs to the files of a figure: what `ppfl plot` and the workflow do."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ppfl.analysis.curves import load_curves
from ppfl.analysis.figure import draw_figure, save_figure
from ppfl.analysis.sources import Source, results_at
from ppfl.config.deferred import hide_torch
from ppfl.core.errors import UserError

FORMATS = (".png", ".pdf", ".svg")


def check_format(out: Path) -> Path:
    """Return where the figure goes, PNG when the name has no ending. Raises UserError for other formats."""
    out = out if out.suffix else out.with_suffix(".png")
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}: {out.suffix} is no format of figures here; allowed: {', '.join(FORMATS)}")
    return out


def plot(
    source: Source, out: Path, metric: str | None, x: str, panel: str | None, colour: str | None
) -> tuple[str, ...]:
    """Draw the runs of a source to one file; return what a user must know before comparing the curves.

    Raises UserError when it cannot be drawn, and why.
    """
    curves = load_curves(source, metric, x, keep=[key for key in (panel, colour) if key])
    hide_torch()
    figure = draw_figure(curves, panel, colour)
    try:
        save_figure(figure, [out])
    except OSError as error:
        raise UserError(f"--out {out}: cannot write it: {error.strerror}") from error
    return curves.notes


def plot_or_explain(results: Sequence[Path], outs: Sequence[Path]) -> None:
    """Draw results to files; where too much varies for one figure, the files say so: a report needs its other parts."""
    try:
        curves = load_curves(results_at(results))
        hide_torch()
        figure = draw_figure(curves)
    except UserError as error:
        figure = Figure(figsize=(8.0, 1.5), layout="constrained")
        figure.text(0.02, 0.5, textwrap.fill(str(error), 110), va="center", parse_math=False)
    save_figure(figure, outs)
