"""Methods without a server once more, from their papers, with nothing compressed: a row of X is a node of a ring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.crosscheck.problem import Round, Rounds, Vector, World
from tests.crosscheck.tuners import Settings, num_gradients, tune

RING = {"graph": {"name": "ring"}}
Gradients = Callable[[Vector], Vector]


def ring(size: int) -> Vector:
    """W: thirds of oneself and of either neighbour."""
    one = np.eye(size)
    return (one + np.roll(one, 1, axis=0) + np.roll(one, -1, axis=0)) / 3


def played(
    world: World, fine_tuner: Settings, step: Callable[[Vector, Gradients], Vector], vectors: int,
    per_round: Callable[[int], int] = lambda number: 1,
) -> Rounds:  # fmt: skip
    """X ← step(X, ∇), where ∇ tunes all w first; so many vectors go to each of two neighbours."""
    X, w = np.array([world.theta for _ in world.clients]), [world.w for _ in world.clients]
    size = len(world.clients)
    for number, _ in enumerate(world.cohorts):
        start = list(w)
        calls: list[list[Vector]] = []

        def gradients(X: Vector, start: Any = start, calls: Any = calls) -> Vector:
            tuned = [tune(world.f, m, x, start[m], **fine_tuner) for m, x in enumerate(X)]
            calls.append(tuned)
            return np.array([world.f.of_theta(m, x, tuned[m]) for m, x in enumerate(X)])

        X = step(X, gradients)
        w = calls[0]
        mean, times = X.mean(axis=0), per_round(number)
        tuning = times * size * num_gradients(fine_tuner)
        yield Round(mean, [(mean, own) for own in w], times * size, tuning, 2 * vectors * size, 0)


def dsgd(world: World, *, lr: float, fine_tuner: Settings) -> Rounds:
    """Lian et al. 2017: X ← WX − η∇."""
    W = ring(len(world.clients))
    return played(world, fine_tuner, lambda X, of: W @ X - lr * of(X), 1)


def choco_sgd(world: World, *, lr: float, mixing: float, compressor: Any, fine_tuner: Settings) -> Rounds:
    """Koloskova et al. 2019: X½ = X − η∇, then X½ + γ(W − I)X̂, X̂ = X½ as it is sent."""
    W = ring(len(world.clients))

    def step(X: Vector, of: Gradients) -> Vector:
        half = X - lr * of(X)
        return half + mixing * (W @ half - half)

    return played(world, fine_tuner, step, 1)


def tracking(
    world: World, lr: float, mixing: float, momentum: float, fine_tuner: Settings, *, reduced: bool = False
) -> Rounds:
    """X⁺ = AX − ηV with M and V of X, A = I + γ(W − I)."""
    size = len(world.clients)
    A = (1 - mixing) * np.eye(size) + mixing * ring(size)
    kept: dict[str, Vector] = {}

    def step(X: Vector, of: Gradients) -> Vector:
        gradient = of(X)
        if not kept:
            M = V = gradient
        elif reduced:
            M = gradient + (1 - momentum) * (kept["M"] - of(kept["X"]))
        else:
            M = (1 - momentum) * kept["M"] + momentum * gradient
        if kept:
            V = A @ kept["V"] + M - kept["M"]
        kept.update(M=M, V=V, X=X)
        return A @ X - lr * V

    return played(world, fine_tuner, step, 2, per_round=lambda number: 2 if reduced and number else 1)


def gradient_tracking(world: World, *, lr: float, fine_tuner: Settings) -> Rounds:
    """Nedić et al. 2017, the gradient of x before the step."""
    return tracking(world, lr, 1.0, 1.0, fine_tuner)


def beer(world: World, *, lr: float, mixing: float, compressor: Any, fine_tuner: Settings) -> Rounds:
    """Zhao et al. 2022."""
    return tracking(world, lr, mixing, 1.0, fine_tuner)


def motef(world: World, *, lr: float, mixing: float, momentum: float, compressor: Any, fine_tuner: Settings) -> Rounds:
    """Islamov et al. 2024, Algorithm 1."""
    return tracking(world, lr, mixing, momentum, fine_tuner)


def motef_vr(
    world: World, *, lr: float, mixing: float, momentum: float, compressor: Any, fine_tuner: Settings
) -> Rounds:
    """Islamov et al. 2024, Algorithm 2, where both gradients are of the same samples: here all of them."""
    return tracking(world, lr, mixing, momentum, fine_tuner, reduced=True)
