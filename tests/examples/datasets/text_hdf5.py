"""Four clients with 2 to 5 short texts, and others of two of them to test on, with a letter that training lacks."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def write(folder: Path) -> None:
    """Write what the example names."""
    draw = np.random.default_rng(0)
    for name, sizes, letters in (("train", (3, 5, 2, 4), "abc .\n"), ("test", (2, 0, 1, 0), "abcé ")):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for client, size in enumerate(sizes):
                texts = ["".join(draw.choice([*letters], draw.integers(0, 20))) for _ in range(size)]
                if texts:
                    file.create_dataset(f"examples/c{client}/snippets", data=texts, dtype=h5py.string_dtype())
