"""One self-contained HTML page about the paper's figures."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ppfl.core.files import write_whole
from ppfl.core.provenance import describe_process, now


@dataclass(frozen=True)
class Part:
    """What one figure comes from: the picture (SVG), its words (JSON) and the configuration of its runs."""

    figure: Path
    words: Path
    config: Path


def write_report(parts: Sequence[Part], out: Path) -> None:
    """Write the page; raises FileNotFoundError when something is not there."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ppfl.analysis", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    facts = {"written": now(), **describe_process()}
    page = environment.get_template("paper.html.j2").render(parts=[_describe(part) for part in parts], facts=facts)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode())


def _describe(part: Part) -> dict[str, Any]:
    words: dict[str, Any] = json.loads(part.words.read_text(encoding="utf-8"))
    picture = base64.b64encode(part.figure.read_bytes()).decode()
    config = part.config.read_text(encoding="utf-8")
    return {**words, "name": part.figure.stem, "figure": f"data:image/svg+xml;base64,{picture}", "config": config}
