"""Thirty colour images of 5 × 4 bytes to train on, and eight others in a file without compression."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write(folder: Path) -> None:
    """Write what the example names."""
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (38, 5, 4, 3)).astype(np.uint8), draw.integers(0, 3, 38)
    np.savez_compressed(folder / "train.npz", x_train=x[:30], y_train=y[:30])
    np.savez(folder / "test.npz", x=x[30:], y=y[30:].astype(np.int64))
