"""Rows of linear regression of two groups of clients whose first coefficients have opposite signs."""

from __future__ import annotations

import numpy as np

FEATURES, OPPOSITE = 20, 10
ROWS, TEST_ROWS = 30, 1000


def build(
    seed: int = 0, clients: int = 8, group: int | None = None
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return clients with 30 rows each, y = ⟨x, b⟩ + noise, all of them standard normal, and test rows without noise.

    Client m is in group m mod 2, which turns the first 10 of 20 coefficients round; `group` leaves one of them.
    """
    draw = np.random.default_rng(seed)
    coefficients = draw.standard_normal(FEATURES)
    turned = coefficients * np.where(np.arange(FEATURES) < OPPOSITE, -1.0, 1.0)
    found = {}
    for client in range(clients):
        b = turned if client % 2 else coefficients
        x, noise = draw.standard_normal((ROWS, FEATURES)), draw.standard_normal(ROWS)
        test = draw.standard_normal((TEST_ROWS, FEATURES))
        if group is None or client % 2 == group:
            found[f"{client:02d}"] = {"train": (x, _products(x, b) + noise), "test": (test, _products(test, b))}
    return found


def _products(x: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ⟨x_i, b⟩, term by term: last bits of BLAS depend on the processor, and the samples are in the digest."""
    products: np.ndarray = (x.T * b[:, None]).sum(axis=0)
    return products
