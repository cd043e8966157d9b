"""Linear regressions in clusters, as in the code of FLoRAL, and few images of mnist20 dealt alike to all: what
`floral-linear.yaml` and `floral-mnist20.yaml` are computed on."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
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
        weights.append(shared + 2.0 * np.outer(u, v) / np.sqrt((u**2).sum() * (v**2).sum()))

    def of_client(m: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        x = draw.normal(size=(samples - kept + scored + kept, features))
        # term by term: the last bits of a product of BLAS depend on the processor, and those of y are in the digest
        y = (x.T[:, :, None] * weights[m % clusters].T[:, None, :]).sum(axis=0) + bias
        return {"train": (x[:kept], y[:kept]), "test": (x[kept:], y[kept:])}

    return [of_client(m) for m in range(clients)]


def mnist(seed: int, clients: int = 20, samples: int = 100) -> list[dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return clients with so many images of mnist20 to train on and as many to be tested on, drawn from all alike.

    The files, looked up in the folder that PPFL_DATA names, give each client few of the ten classes.
    """
    draw = np.random.default_rng(seed)
    parts = {}
    for part in ("train", "test"):
        with h5py.File(Path(os.environ["PPFL_DATA"]) / f"mnist20_{part}.h5") as file:
            owners = [file["examples"][name] for name in sorted(file["examples"])]
            x = np.concatenate([owner["pixels"][()] for owner in owners])
            y = np.concatenate([owner["label"][()] for owner in owners]).astype(np.int64)
        rows = draw.choice(len(y), clients * samples, replace=False).reshape(clients, samples)
        parts[part] = [(x[of_client], y[of_client]) for of_client in rows]
    return [{part: of_clients[m] for part, of_clients in parts.items()} for m in range(clients)]
