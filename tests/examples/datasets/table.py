"""Rows of four people, a column each of numbers, words and labels; a fifth one has rows to test on alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

HEAD = "age,work,who,income\n"


def write(folder: Path) -> None:
    """Write what the example names."""
    draw = np.random.default_rng(0)
    for part, people, size in (("train", "abcd", 30), ("test", "abe", 12)):
        rows = [
            f"{draw.normal(40, 9):.2f},{draw.choice(['clerk', 'farmer', 'none'])},{draw.choice([*people])},"
            f"{draw.choice(['<=50K', '>50K'])}\n"
            for _ in range(size)
        ]
        (folder / f"{part}.csv").write_text(HEAD + "".join(rows), encoding="utf-8")
