"""The arrivals of eight clients, a few each."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def write(folder: Path) -> None:
    """Write what the example names."""
    draw = np.random.default_rng(0)
    client = np.concatenate([np.arange(8), draw.integers(0, 8, 30)])
    with h5py.File(folder / "arrivals.h5", "w") as file:
        file["arrivals/client"] = client
        file["arrivals/turnaround_seconds"] = draw.exponential(size=len(client))
