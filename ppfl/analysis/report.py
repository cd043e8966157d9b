"""One self-contained HTML page about all experiments: figures inlined, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ppfl.analysis.tables import provenance_rows, runs_table, varying_keys
from ppfl.analysis.time_bars import time_bars
from ppfl.core.files import write_whole
from ppfl.core.yaml_text import dump_text
from ppfl.results.layout import SECONDS_SHARED_BY
from ppfl.results.reader import Result, open_result


@dataclass(frozen=True)
class Section:
    """One experiment: its result files and its figure (SVG)."""

    name: str
    results: list[Path]
    figure: Path


def write_report(sections: Sequence[Section], out: Path) -> None:
    """Write the page; raises FileNotFoundError when a result or a figure is not there."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ppfl.analysis", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    described = [_describe(section) for section in sections]
    statuses = Counter(status for section in described for status in section["table"].statuses)
    page = environment.get_template("report.html.j2").render(sections=described, statuses=statuses)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode())


def _describe(section: Section) -> dict[str, Any]:
    results = [open_result(path) for path in section.results]
    bars = time_bars(results)
    has_shares = any(SECONDS_SHARED_BY in result.provenance for result in results)
    picture = base64.b64encode(section.figure.read_bytes()).decode()
    return {
        "name": section.name,
        "figure": f"data:image/svg+xml;base64,{picture}",
        "varying": varying_keys(results),
        "table": runs_table(results),
        "bars": bars,
        "longest": max((bar.total for bar in bars), default=0.0) or 1.0,
        "shared": "; of runs that were computed together, their shares" if has_shares else "",
        "config": _config_text(results[0]),
        "provenance": provenance_rows(results),
    }


def _config_text(result: Result) -> str:
    return dump_text(dict(result.config))
