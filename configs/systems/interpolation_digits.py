"""Handwritten digits up to 4 against those above, a few of them at each of 20 clients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Part = tuple[NDArray[np.float32], NDArray[np.int64]]


def clients(
    seed: int, clients: int = 20, samples: int = 16, alpha: float = 3.0, test: int = 200
) -> dict[str, dict[str, Part]]:
    """Return {name: {train, test}}: samples of each client by a law of its own over the two labels, Dirichlet(α).

    Half of the images are trained on and half are tested on; clients draw from them with replacement.
    """
    images, digits = load_digits(return_X_y=True)
    x, y = (images / 16).astype(np.float32), (digits > 4).astype(np.int64)
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(x))
    halves = np.array_split(order, 2)
    found = {}
    for client in range(clients):
        share = draw.dirichlet([alpha, alpha])
        parts = {}
        for name, half, number in zip(("train", "test"), halves, (samples, test), strict=True):
            labels = draw.choice(2, number, p=share)
            rows = np.array([draw.choice(half[y[half] == label]) for label in labels])
            parts[name] = (x[rows], y[rows])
        found[f"{client:02d}"] = parts
    return found
