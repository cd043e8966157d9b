"""The numbers of docs/paper.md, from the results of `make paper`:  python -m ppfl.analysis.paper.numbers

Everything between two markers of the page is written here, and beside the page what it was written from
(`<page>.json`), so that a test can tell whether the page is that of the configurations as they are.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ppfl.analysis.paper.runs import load_runs
from ppfl.config.grid import load_cells
from ppfl.core.errors import UserError

EXHIBITS = ("steps", "comparison", "asynchronous", "byzantine", "abstract")
Row = dict[str, str]
_BLOCK = re.compile(r"(<!-- numbers: ([a-z-]+) -->\n).*?(<!-- end of numbers -->)", re.DOTALL)


def gather(configs: Path, results: Path) -> dict[str, Any]:
    """Return what the page is written from: {"experiments": fingerprints, "words": {exhibit: header and rows}}.

    Raises UserError where a result is missing or unfinished.
    """
    words = {}
    for name in EXHIBITS:
        config = results / "comparison.yaml" if name == "comparison" else configs / f"{name}.yaml"
        drawn = importlib.import_module(f"ppfl.analysis.paper.{name}").draw(load_runs(config, results / name))
        words[name] = {key: value for key, value in asdict(drawn.words).items() if key in ("header", "rows")}
    found: dict[str, Any] = json.loads(json.dumps({"experiments": fingerprints(configs), "words": words}))
    return found


def fingerprints(configs: Path) -> dict[str, str]:
    """Return {configuration file: hash of the digests of its runs}, which the version of results is part of."""
    return {
        path.stem: hashlib.sha256(" ".join(sorted(load_cells(path))).encode()).hexdigest()[:16]
        for path in sorted(configs.glob("*.yaml"))
        if path.stem in EXHIBITS or path.stem.startswith("tuning-")
    }


def fill(page: str, stored: Mapping[str, Any]) -> str:
    """Return the page with every block between markers written anew.

    Raises UserError unless each table has exactly one place.
    """
    places = [name for _, name, _ in _BLOCK.findall(page)]
    if sorted(places) != sorted(TABLES):
        raise UserError(f"wanted one pair of markers for each of {', '.join(TABLES)}; there are {', '.join(places)}")
    rows = {
        name: [dict(zip(words["header"], row, strict=True)) for row in words["rows"]]
        for name, words in stored["words"].items()
    }

    def written(block: re.Match[str]) -> str:
        exhibit, table = TABLES[block[2]]
        return block[1] + "\n".join(["", *table(rows[exhibit]), "", block[3]])

    return _BLOCK.sub(written, page)


def _grid(rows: list[Row], corner: str, down: Callable[[Row], str], cells: Mapping[str, Callable[[Row], str]],
          across: Callable[[Row], str] = lambda row: "") -> list[str]:  # fmt: skip
    """Return a Markdown table: a line for every `down`, and for every `across` a column of each of `cells`."""
    lines = list(dict.fromkeys(map(down, rows)))
    groups = list(dict.fromkeys(map(across, rows)))
    by_place = {(down(row), across(row)): row for row in rows}
    titles = [", ".join(filter(None, (group, title))) for group in groups for title in cells]

    def line(name: str) -> str:
        found = [by_place.get((name, group)) for group in groups]
        texts = [cell(row) if row else "–" for row in found for cell in cells.values()]
        return "| " + " | ".join([name, *texts]).replace("*", r"\*") + " |"

    head = "| " + " | ".join([corner, *titles]).replace("*", r"\*") + " |"
    return [head, "|" + "---|" * (1 + len(titles)), *map(line, lines)]


def _steps(rows: list[Row]) -> list[str]:
    return _grid(rows, "CG steps a round, from fresh w", lambda row: row["CG steps"], {
        "final ‖F‖": lambda row: row["final ‖F‖"],
        "predicted with exact w": lambda row: row["predicted"],
        "run / predicted": lambda row: row["run / predicted"],
        "largest distance from prediction, relative": lambda row: row["largest distance"],
    })  # fmt: skip


def _panel(row: Row) -> str:
    return f"ζ = {row['ζ']}, τ = {row['τ']}"


def _method(row: Row) -> str:
    return row["method"].split(" (")[0]


def _comparison(rows: list[Row]) -> list[str]:
    def cell(row: Row) -> str:
        return f"{row['final ‖F‖']} ({row['predicted (FFGG) or floor']})"

    return _grid(rows, "method", _method, {"": cell}, _panel)


def _equal_bytes(rows: list[Row]) -> list[str]:
    return _grid(rows, "method", _method, {"": lambda row: row["‖F‖ at equal bytes"]}, _panel)


def _ahead(rows: list[Row]) -> list[str]:
    """Say where each method is ahead of FFGG, by communications and by bytes."""
    ffgg = {_panel(row): row for row in rows if row["method"] == "FFGG"}

    def places(method: str, column: str) -> str:
        mine = [row for row in rows if _method(row) == method]
        found = [_panel(row) for row in mine if _number(row[column]) < _number(ffgg[_panel(row)][column])]
        return "everywhere" if len(found) == len(mine) else "; ".join(found) or "nowhere"

    methods = [method for method in dict.fromkeys(map(_method, rows)) if method != "FFGG"]
    lines = [{"method": m, "calls": places(m, "final ‖F‖"), "bytes": places(m, "‖F‖ at equal bytes")} for m in methods]
    return _grid(lines, "method", lambda row: row["method"], {
        "ahead of FFGG after as many communications": lambda row: row["calls"],
        "after as many bytes": lambda row: row["bytes"],
    })  # fmt: skip


def _asynchronous(rows: list[Row]) -> list[str]:
    def across(row: Row) -> str:
        return "with a straggler" if row["straggler"] == "yes" else "all alike"

    return _grid(rows, "targets, method", lambda row: f"{row['targets']}, {row['method']}", {
        "virtual seconds": lambda row: row["virtual seconds"],
        "final ‖F‖ (predicted)": lambda row: f"{row['final ‖F‖']} ({row['predicted']})",
        "run / predicted": lambda row: row["run / predicted"],
    }, across)  # fmt: skip


def _byzantine(rows: list[Row]) -> list[str]:
    return _grid(rows, "targets, rule", lambda row: f"{row['targets']}, {row['rule']}", {
        "final ‖F‖, or growth a round": lambda row: row["final ‖F‖, or growth a round"],
        "predicted": lambda row: row["predicted"],
        "run / predicted": lambda row: row["run / predicted"],
    })  # fmt: skip


def _abstract(rows: list[Row]) -> list[str]:
    def down(row: Row) -> str:
        return f"{row['trouble']}, {row['targets']}"

    return _grid(rows, "trouble, targets", down, {
        "final ‖F‖ (predicted)": lambda row: f"{row['final ‖F‖']} ({row['predicted']})",
        "run / predicted": lambda row: row["run / predicted"],
    }, lambda row: f"ζ = {row['ζ']}")  # fmt: skip


def _number(text: str) -> float:
    return math.inf if text == "diverged" else float(text)


TABLES: dict[str, tuple[str, Callable[[list[Row]], list[str]]]] = {
    "steps": ("steps", _steps),
    "comparison": ("comparison", _comparison),
    "equal-bytes": ("comparison", _equal_bytes),
    "ahead": ("comparison", _ahead),
    "asynchronous": ("asynchronous", _asynchronous),
    "byzantine": ("byzantine", _byzantine),
    "abstract": ("abstract", _abstract),
}
"""{marker: (exhibit, lines from its rows)}."""


@click.command(help=__doc__)
@click.option("--configs", type=click.Path(path_type=Path), default=Path("configs/paper"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/paper"), show_default=True)
@click.option("--page", type=click.Path(path_type=Path), default=Path("docs/paper.md"), show_default=True)
def main(configs: Path, results: Path, page: Path) -> None:
    """Write the tables of the page."""
    try:
        stored = gather(configs, results)
        text = fill(page.read_text(encoding="utf-8"), stored)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    page.write_text(text, encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
