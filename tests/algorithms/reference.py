"""Baselines once more, in plain NumPy loops on f_m(x) = ½ xᵀQ_m x − c_mᵀx, everything shared: no ppfl in here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tests.numpy_reference import Array, Client


class Bowl(NamedTuple):
    """One client: Q (D, D) and c (D,)."""

    Q: Array
    c: Array

    def gradient(self, x: Array) -> Array:
        return self.Q @ x - self.c

    @property
    def minimizer(self) -> Array:
        return np.linalg.solve(self.Q, self.c)


def bowl(client: Client) -> Bowl:
    """½‖Hθ − b‖² + ½‖Aθ + Bw − y‖² as a function of x = (θ, w)."""
    first = np.hstack([client["H"], np.zeros((len(client["H"]), client["B"].shape[1]))])
    second = np.hstack([client["A"], client["B"]])
    return Bowl(first.T @ first + second.T @ second, first.T @ client["b"] + second.T @ client["y"])


def minimizer(bowls: Sequence[Bowl]) -> Array:
    """Return argmin of the mean of f_m."""
    return np.linalg.solve(sum(bowl.Q for bowl in bowls), sum(bowl.c for bowl in bowls))


def descend(gradient: Callable[[Array], Array], x: Array, lr: float, steps: int) -> Array:
    for _ in range(steps):
        x = x - lr * gradient(x)
    return x


def prox_round(bowls: Sequence[Bowl], x: Array, lr: float, steps: int, penalty: float = 0.0) -> Array:
    """One round of FedProx, or of FedAvg with penalty 0."""
    ends = [descend(lambda z, b=b: b.gradient(z) + penalty * (z - x), x, lr, steps) for b in bowls]
    return np.mean(ends, axis=0)


def fixed_point(round: Callable[[Array], Array], dimension: int) -> Array:
    """Return the fixed point of an affine map."""
    at_zero = round(np.zeros(dimension))
    linear = np.stack([round(unit) - at_zero for unit in np.eye(dimension)], axis=1)
    return np.linalg.solve(np.eye(dimension) - linear, at_zero)


def local_gd_fixed_point(bowls: Sequence[Bowl], lr: float, steps: int) -> Array:
    """Σ_m (I − (I − ηQ_m)ᴴ)(θ − x_m*) = 0: a weighted mean of the clients' own minimizers, not the minimizer."""
    eye = np.eye(len(bowls[0].c))
    weights = [eye - np.linalg.matrix_power(eye - lr * b.Q, steps) for b in bowls]
    return np.linalg.solve(sum(weights), sum(w @ b.minimizer for w, b in zip(weights, bowls, strict=True)))


def scaffold(
    bowls: Sequence[Bowl], cohorts: Sequence[Sequence[int]], lr: float, steps: int
) -> tuple[Array, Array, list[Array]]:
    """Return (x, c, c_m) after one round for every cohort."""
    x = np.zeros(len(bowls[0].c))
    c, of_client = np.zeros_like(x), [np.zeros_like(x) for _ in bowls]
    for cohort in cohorts:
        moves, changes = [], []
        for m in cohort:
            y = descend(lambda z, m=m, c=c: bowls[m].gradient(z) - of_client[m] + c, x, lr, steps)
            new = of_client[m] - c + (x - y) / (steps * lr)
            moves.append(y - x)
            changes.append(new - of_client[m])
            of_client[m] = new
        x = x + np.mean(moves, axis=0)
        c = c + np.sum(changes, axis=0) / len(bowls)
    return x, c, of_client


def l2gd(
    bowls: Sequence[Bowl], coins: Sequence[bool], lr: float, penalty: float, p: float, num_shared: int | None = None
) -> tuple[Array, list[int]]:
    """Return x_m, (M, D), and the averaging iterations; the mean moves all at once, as published.

    It moves the first `num_shared` coordinates (default: all).
    """
    M = len(bowls)
    x = np.zeros((M, len(bowls[0].c)))
    averaged = []
    for k, averages in enumerate(coins):
        if averages:
            apart = x - x.mean(axis=0)
            apart[:, num_shared if num_shared is not None else len(bowls[0].c) :] = 0
            x = x - lr * penalty / (M * p) * apart
            averaged.append(k)
        else:
            x = x - lr / (M * (1 - p)) * np.stack([b.gradient(row) for b, row in zip(bowls, x, strict=True)])
    return x, averaged


def l2gd_minimizer(bowls: Sequence[Bowl], penalty: float, num_shared: int | None = None) -> Array:
    """Q_m x_m − c_m + λ(x_m − x̄) = 0 for all m, one linear system; (M, D). λ counts for `num_shared` coordinates."""
    M, D = len(bowls), len(bowls[0].c)
    penalized = np.arange(D) < (D if num_shared is None else num_shared)
    system = np.kron(np.eye(M) - np.full((M, M), 1 / M), penalty * np.diag(penalized.astype(float)))
    for m, b in enumerate(bowls):
        system[m * D : (m + 1) * D, m * D : (m + 1) * D] += b.Q
    return np.linalg.solve(system, np.concatenate([b.c for b in bowls])).reshape(M, D)
