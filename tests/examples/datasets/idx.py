"""Forty images of 6 × 5 bytes to train on and nine others, one file of each kind compressed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np


def idx(numbers: np.ndarray) -> bytes:
    """Return an IDX file of unsigned bytes."""
    return bytes([0, 0, 8, numbers.ndim]) + np.array(numbers.shape, ">u4").tobytes() + numbers.tobytes()


def write(folder: Path) -> None:
    """Write what the example names."""
    draw = np.random.default_rng(0)
    for part, size in (("train", 40), ("test", 9)):
        images = idx(draw.integers(0, 256, (size, 6, 5)).astype(np.uint8))
        labels = idx(draw.integers(0, 4, size).astype(np.uint8))
        if part == "train":
            (folder / "train-images.gz").write_bytes(gzip.compress(images, mtime=0))
            (folder / "train-labels").write_bytes(labels)
        else:
            (folder / "test-images").write_bytes(images)
            (folder / "test-labels.gz").write_bytes(gzip.compress(labels, mtime=0))
