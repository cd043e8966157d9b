"""Linear regressions in clusters, as in the code of FLoRAL: what `floral-linear.yaml` is computed on."""

from __future__ import annotations

import numpy as np


def linear(
    seed: int, clients: int = 10, clusters: int = 2, samples: int = 8, kept: int = 6, features: int = 10,
    outputs: int = 3, scored: int = 100,
) -> list[dict[str, tuple[np.ndarray, np.ndarray]]]:  # fmt: skip
    """Return clients with y = W_c x + b, x ~ N(0, I), c the client modulo `clusters`, without noise.

    W_c = W + 2 u_c v_cᵀ, W ~ N(0, 1)/√d and u_c, v_c of unit length; b is common. Of `samples`, `kept` are trained on;
    the others of the source are two test samples, where `scored` give a test error that is not luck.
    """
    draw = np.random.default_rng(seed)
    shared, bias = draw.normal(size=(outputs, features)) / np.sqrt(features), draw.normal(size=outputs)
    weights = []
    for _ in range(clusters):
        u, v = draw.normal(size=outputs), draw.normal(size=features)
        weights.append(shared + 2.0 * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v)))

    def of_client(m: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        x = draw.normal(size=(samples - kept + scored + kept, features))
        y = x @ weights[m % clusters].T + bias
        return {"train": (x[:kept], y[:kept]), "test": (x[kept:], y[kept:])}

    return [of_client(m) for m in range(clients)]
