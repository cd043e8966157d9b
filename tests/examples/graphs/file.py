"""A ring of three, as a text."""

from __future__ import annotations

from pathlib import Path


def write(folder: Path) -> None:
    """Write what the example names."""
    (folder / "graph.txt").write_text("0 1 1\n1 0 1\n1 1 0\n", encoding="utf-8")
