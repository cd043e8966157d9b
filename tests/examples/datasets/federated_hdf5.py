"""Six clients with 4 to 14 grey images of 8 × 8 pixels, and others of two of them to test on."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def write(folder: Path) -> None:
    """Write what the example names."""
    draw = np.random.default_rng(0)
    for name, sizes in {"train": (4, 14, 9, 5, 11, 7), "test": (0, 3, 2, 0, 0, 0)}.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for client, size in enumerate(sizes):
                file[f"examples/c{client}/pixels"] = draw.integers(0, 256, (size, 8, 8)).astype(np.uint8)
                file[f"examples/c{client}/label"] = draw.integers(0, 10, size)
