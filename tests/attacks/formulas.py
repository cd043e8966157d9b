"""What attackers send, from the papers: functions of honest vectors (H, D) and of what they would have sent (A, D)."""

from __future__ import annotations

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
