"""A table of comparison as text, CSV, Markdown or LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from math import isnan

from ppfl.analysis.comparison_table import ComparisonTable, Score
from ppfl.analysis.factors import texts_of
from ppfl.analysis.tables import number, text_of

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def _as_csv(table: ComparisonTable) -> str:
    """All digits; a metric has columns for median, lowest, highest and number of runs; nothing where there is none.

    Where the worst of several values is shown it is a mean, and two more columns say of which one, and how many of its
    runs have diverged.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    parts = ("", " min", " max", " runs", *((f" worst {table.worst_of}", " diverged") if table.worst_of else ()))
    header = [f"{metric.title}{part}" for metric in table.metrics for part in parts]
    writer.writerow([*map(_no_formula, (*table.keys, "status", *header))])
    for values, (_, status, scores) in zip(_columns(table, _csv_text), table.rows, strict=True):
        cells: list[object] = []
        for score in scores:
            numbers = (score.middle, score.lowest, score.highest)
            cells += ["" if isnan(value) else repr(value) for value in numbers] + [score.num_runs]
            cells += [_no_formula(score.worst, score.worst), score.num_diverged] if table.worst_of else []
        writer.writerow([*values, status, *cells])
    return file.getvalue()


def _as_text(table: ComparisonTable) -> str:
    lines = _lines(table)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def _as_markdown(table: ComparisonTable) -> str:
    header, *rows = [[_markdown(cell) for cell in line] for line in _lines(table)]
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _markdown(text: str) -> str:
    for character, escaped in (("\\", "\\\\"), ("|", r"\|"), ("<", "&lt;"), ("`", r"\`")):
        text = text.replace(character, escaped)
    return text


def _as_latex(table: ComparisonTable) -> str:
    header, *rows = [[_escape(cell) for cell in line] for line in _lines(table)]
    # a [ or * after the end of a row would belong to that
    body = ["{}" * line[0].startswith(("[", "*")) + " & ".join(line) + r" \\" for line in rows]
    head = [rf"\begin{{tabular}}{{{'l' * len(header)}}}", r"\hline", " & ".join(header) + r" \\", r"\hline"]
    return "\n".join([*head, *body, r"\hline", r"\end{tabular}", ""])


FORMATS: dict[str, Callable[[ComparisonTable], str]] = {
    "text": _as_text, "csv": _as_csv, "markdown": _as_markdown, "latex": _as_latex,
}  # fmt: skip


def _lines(table: ComparisonTable) -> list[list[str]]:
    """Return header and rows; a score is a median, or the worst mean, and a range where there are several runs."""
    worst = f", worst {table.worst_of}" if table.worst_of else ""
    lines = [[*table.keys, "status", *(metric.title.replace("_", " ") + worst for metric in table.metrics)]]
    for values, (_, status, scores) in zip(_columns(table, text_of), table.rows, strict=True):
        shown = [_range(score, metric.name) for score, metric in zip(scores, table.metrics, strict=True)]
        lines.append([*values, status, *shown])
    return lines


def _columns(table: ComparisonTable, text: Callable[[object], str]) -> list[tuple[str, ...]]:
    """Return the values of every row as texts, different ones of a column differently."""
    columns = [texts_of(column, text) for column in zip(*(values for values, _, _ in table.rows), strict=True)]
    return list(zip(*columns, strict=True)) if columns else [()] * len(table.rows)


def _csv_text(value: object) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, list | dict) else _no_formula(str(value), value)


def _no_formula(text: str, value: object = "") -> str:
    """Mark a text that a spreadsheet would compute; numbers stay numbers."""
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text


def _range(score: Score, metric: str) -> str:
    middle, lowest, highest = (number(value, metric) for value in (score.middle, score.lowest, score.highest))
    found = middle if score.num_runs < 2 else f"{middle} [{lowest}, {highest}]"
    if score.num_diverged:
        found = f"diverged, {score.num_diverged} of {score.num_diverged + score.num_runs}"
    return f"{found} ({score.worst})" if score.worst else found


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
