"""What attackers send, from the papers: functions of honest vectors (H, D) and of what they would have sent (A, D)."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np


def sign_flip(honest: np.ndarray, own: np.ndarray, factor: float) -> np.ndarray:
    return -factor * own


def inner_product(honest: np.ndarray, own: np.ndarray, factor: float) -> np.ndarray:
    return -factor * np.asarray(honest.mean(axis=0))


def little_is_enough(honest: np.ndarray, own: np.ndarray, factor: str) -> np.ndarray:
    """With the published factor."""
    supporters = (len(honest) + len(own)) // 2 + 1 - len(own)
    z = NormalDist().inv_cdf((len(honest) - supporters) / len(honest))
    return np.asarray(honest.mean(axis=0) - z * honest.std(axis=0))


def mimic(honest: np.ndarray, own: np.ndarray, client: int) -> np.ndarray:
    return honest[client]


def inf(honest: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.full_like(own, np.inf)


def min_max(honest: np.ndarray, own: np.ndarray, direction: str) -> np.ndarray:
    largest = max(float(np.linalg.norm(x - y)) for x in honest for y in honest)
    return _strongest(honest, direction, lambda sent: bool(np.linalg.norm(sent - honest, axis=1).max() <= largest))


def min_sum(honest: np.ndarray, own: np.ndarray, direction: str) -> np.ndarray:
    largest = max(float(((x - honest) ** 2).sum()) for x in honest)
    return _strongest(honest, direction, lambda sent: bool(((sent - honest) ** 2).sum() <= largest))


def _strongest(honest: np.ndarray, direction: str, is_allowed: Callable[[np.ndarray], bool]) -> np.ndarray:
    """Return μ + γp, γ by bisection."""
    mean = honest.mean(axis=0)
    towards = {"unit": -mean / np.linalg.norm(mean), "sign": -np.sign(mean), "std": -honest.std(axis=0)}[direction]
    low, high = 0.0, 1.0
    while is_allowed(mean + high * towards):
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if is_allowed(mean + middle * towards) else (low, middle)
    return np.asarray(mean + low * towards)
