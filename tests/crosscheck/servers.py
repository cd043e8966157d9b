"""Every server optimizer once more: Reddi et al., ICLR 2021, Algorithms 1 and 2, with Δ = −g.

A function with its name, of its settings, that returns the map from an aggregate to a direction, θ ← θ − direction; the
map remembers what it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.crosscheck.problem import Vector

Direction = Callable[[Vector], Vector]


def direction_of(name: str, **settings: Any) -> Direction:
    found: Direction = globals()[name](**settings)
    return found


def sgd(lr: float = 1.0) -> Direction:
    return lambda g: lr * g


def momentum(lr: float, beta: float) -> Direction:
    v = np.zeros(1)

    def direction(g: Vector) -> Vector:
        nonlocal v
        v = beta * v + g
        return lr * v

    return direction


def _adaptive(lr: float, beta1: float, tau: float, second_moment: Callable[[Vector, Vector], Vector]) -> Direction:
    m, v = np.zeros(1), np.full(1, tau**2)

    def direction(g: Vector) -> Vector:
        nonlocal m, v
        m, v = beta1 * m + (1 - beta1) * g, second_moment(v, g)
        return lr * m / (np.sqrt(v) + tau)

    return direction


def adagrad(lr: float, beta1: float, tau: float) -> Direction:
    return _adaptive(lr, beta1, tau, lambda v, g: v + g**2)


def yogi(lr: float, beta1: float, beta2: float, tau: float) -> Direction:
    return _adaptive(lr, beta1, tau, lambda v, g: v - (1 - beta2) * g**2 * np.sign(v - g**2))


def adam(lr: float, beta1: float, beta2: float, tau: float) -> Direction:
    return _adaptive(lr, beta1, tau, lambda v, g: beta2 * v + (1 - beta2) * g**2)
