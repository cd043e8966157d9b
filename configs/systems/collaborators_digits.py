"""scikit-learn's digits, dealt to two groups of clients that call them by different names."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

CLASSES = 10


def build(
    seed: int = 0, clients: int = 8, train: int = 40, group: int | None = None
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return clients with `train` random images each to train on, and the rest of an equal share to test on.

    Client m is in group m mod 2, the second of which has its labels permuted; `group` leaves one of them.
    """
    images, labels = load_digits(return_X_y=True)
    draw = np.random.default_rng(seed)
    names = draw.permutation(CLASSES)
    shares = np.array_split(draw.permutation(len(labels)), clients)
    found = {}
    for client, rows in enumerate(shares):
        x, y = (images[rows] / 16.0).reshape(-1, 8, 8), labels[rows]
        y = names[y] if client % 2 else y
        if group is None or client % 2 == group:
            found[f"{client:02d}"] = {"train": (x[:train], y[:train]), "test": (x[train:], y[train:])}
    return found
