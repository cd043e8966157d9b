"""A table of comparison as text, CSV, Markdown or LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from math import isnan

from ppfl.analysis.comparison_table import ComparisonTable, Score
from ppfl.analysis.tables import number, text_of

_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}


def _as_csv(table: ComparisonTable) -> str:
    """All digits; a metric has columns for median, lowest, highest and number of runs; nothing where there is none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header = [f"{metric.title}{part}" for metric in table.metrics for part in ("", " min", " max", " runs")]
    writer.writerow([*table.keys, "status", *header])
    for values, status, scores in table.rows:
        cells: list[object] = []
        for score in scores:
            numbers = (score.median, score.lowest, score.highest)
            cells += ["" if isnan(value) else repr(value) for value in numbers] + [score.num_runs]
        writer.writerow(["" if value is None else value for value in values] + [status, *cells])
    return file.getvalue()


def _as_text(table: ComparisonTable) -> str:
    lines = _lines(table)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def _as_markdown(table: ComparisonTable) -> str:
    header, *rows = [[cell.replace("|", r"\|") for cell in line] for line in _lines(table)]
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _as_latex(table: ComparisonTable) -> str:
    header, *rows = [[_escape(cell) for cell in line] for line in _lines(table)]
    body = [" & ".join(line) + r" \\" for line in rows]
    head = [rf"\begin{{tabular}}{{{'l' * len(header)}}}", r"\hline", " & ".join(header) + r" \\", r"\hline"]
    return "\n".join([*head, *body, r"\hline", r"\end{tabular}", ""])


FORMATS: dict[str, Callable[[ComparisonTable], str]] = {
    "text": _as_text, "csv": _as_csv, "markdown": _as_markdown, "latex": _as_latex,
}  # fmt: skip


def _lines(table: ComparisonTable) -> list[list[str]]:
    """Return header and rows; a score is a median, and a range where there are several runs."""
    lines = [[*table.keys, "status", *(metric.title.replace("_", " ") for metric in table.metrics)]]
    for values, status, scores in table.rows:
        shown = [_range(score, metric.name) for score, metric in zip(scores, table.metrics, strict=True)]
        lines.append([*map(text_of, values), status, *shown])
    return lines


def _range(score: Score, metric: str) -> str:
    median, lowest, highest = (number(value, metric) for value in (score.median, score.lowest, score.highest))
    return median if score.num_runs < 2 else f"{median} [{lowest}, {highest}]"


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
