"""The file that the example of trace links names."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

_CLIENTS, _ENTRIES = 8, 500
"""Of the quadratic example; rounds of a test."""


def write(folder: Path) -> None:
    """Bandwidths of each client, in bits a second."""
    draw = np.random.default_rng(0)
    with h5py.File(folder / "bandwidths.h5", "w") as file:
        for direction, least in (("down", 1e5), ("up", 1e4)):
            file[f"{direction}_bits_per_second"] = draw.uniform(least, 10 * least, (_CLIENTS, _ENTRIES))
