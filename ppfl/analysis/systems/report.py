"""One self-contained HTML page about the studies."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from ppfl.core.files import write_whole
from ppfl.core.provenance import describe_process, now

if TYPE_CHECKING:
    from collections.abc import Sequence


def write_report(words: Sequence[Path], configs: Sequence[Sequence[Path]], out: Path) -> None:
    """Write the page from the words of each study, figures beside them, and its configurations.

    Raises FileNotFoundError when something is not there.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ppfl.analysis", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    studies = [_describe(*of_study) for of_study in zip(words, configs, strict=True)]
    facts = {"written": now(), **describe_process()}
    page = environment.get_template("systems.html.j2").render(studies=studies, facts=facts)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode())


def _describe(words: Path, configs: Sequence[Path]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(words.read_text(encoding="utf-8"))
    for figure in told["figures"]:
        picture = words.with_name(f"{figure['stem']}.svg").read_bytes()
        figure["picture"] = f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"
    texts = [(path.name, path.read_text(encoding="utf-8")) for path in configs]
    return {**told, "name": words.stem, "configs": texts}
