"""Two files of 12 images to train on, and one of 5 others, each of one colour, and compressed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np


def write(folder: Path) -> None:
    """Write what the example names."""
    draw = np.random.default_rng(0)
    for name, size in (("data_batch_1", 12), ("data_batch_2", 12), ("test_batch", 5)):
        labels = draw.integers(0, 10, (size, 1))
        pixels = np.repeat(draw.integers(0, 256, (size, 3)), 1024, axis=1)
        records = np.concatenate([labels, pixels], axis=1).astype(np.uint8)
        (folder / f"{name}.bin").write_bytes(gzip.compress(records.tobytes(), mtime=0))
