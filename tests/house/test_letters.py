"""A letter in a shape has one meaning, the one that docs/architecture.md gives it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.house.counts import ROOT, Source, sources_of

FOLDERS = (
    "core", "rows", "interfaces", "networks",
    "aggregators", "pre_aggregators", "attacks", "problems", "models", "datasets", "partitions", "shifts",
    "compressors", "compute_times", "fine_tuners", "links", "server_optimizers", "comm", "engine",
)  # fmt: skip
_LETTER = r"(?:[A-Z](?:_r)?|n)'?"
_SHAPE = re.compile(rf"(?<![\w.])\(((?:{_LETTER}|\d+|…|[a-z_]{{2,}})(?:, (?:{_LETTER}|\d+|…|[a-z_]{{2,}}))*,?)\)")


def texts_of(source: Source) -> Iterator[str]:
    """Docstrings, also those below fields, without their examples."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield "\n".join(
                line for line in node.value.value.splitlines() if not line.lstrip().startswith((">>>", "..."))
            )


def letters_in(text: str) -> set[str]:
    """Letters of all shapes in a text: tuples of letters, numbers and words, (N, W) or (S,) or (epochs, S)."""
    shapes = [match[1] for match in _SHAPE.finditer(text) if "," in match[1]]
    parts = {part.strip() for shape in shapes for part in shape.split(",")}
    return {part[0] for part in parts if re.fullmatch(_LETTER, part)}


def known_letters() -> set[str]:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \|", page.partition("## Letters\n")[2], re.MULTILINE)
    return set(re.findall(r"`(\w)`", " ".join(rows)))


@pytest.mark.parametrize("folder", FOLDERS)
def test_shapes_are_in_known_letters(folder: str) -> None:
    sources = sources_of(ROOT / "ppfl" / folder)
    assert sources
    for source in sources:
        for text in texts_of(source):
            assert letters_in(text) <= known_letters(), f"{source.path.name}: {text}"


def test_shapes_are_found_and_other_brackets_are_not() -> None:
    text = "(N', D_r) of N(0, I), min(B, S), (Q, c), (S, …) and (epochs, X); F(θ) = (1/M) Σ_m"
    assert letters_in(text) == {"N", "D", "S", "X"}
    assert {"M", "N", "W", "Q"} <= known_letters()
    assert "X" not in known_letters()
