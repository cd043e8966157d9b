"""Thirty rows of five features to train on, and ten others in a compressed file."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np


def write(folder: Path) -> None:
    """Write what the example names."""
    draw = np.random.default_rng(0)
    lines = []
    for _ in range(40):
        indices = np.flatnonzero(draw.random(5) < 0.6) + 1
        lines.append(
            " ".join([str(draw.choice([-1, 1])), *(f"{index}:{draw.normal():.3g}" for index in indices)]) + "\n"
        )
    (folder / "train.svm").write_text("".join([*lines[:29], "1 5:1\n"]), encoding="utf-8")
    (folder / "test.svm.gz").write_bytes(gzip.compress("".join(lines[30:]).encode(), mtime=0))
