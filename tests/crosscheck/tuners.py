"""Every fine-tuner once more, on the w of one client with θ fixed: functions with its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.crosscheck.problem import TRAIN, Problem, Vector

Settings = dict[str, Any]
Rows = NDArray[np.int64] | slice
_ALL = slice(None)


@dataclass(frozen=True)
class Client:
    """f_m(θ, ·) of one client."""

    f: Problem
    m: int
    theta: Vector

    def loss(self, w: Vector) -> float:
        return self.f.loss(TRAIN[self.m], self.theta, w)

    def gradient(self, w: Vector, rows: Rows = _ALL) -> Vector:
        x, y = TRAIN[self.m]
        return self.f.gradients((x[rows], y[rows]), self.theta, w)[1]

    def system(self, length: int) -> tuple[Vector, Vector]:
        """Return A and b of ∇f(w) = Aw − b, which is linear for least squares; `length` is that of w."""
        zero = self.gradient(np.zeros(length))
        return np.stack([self.gradient(unit) - zero for unit in np.eye(length)], axis=1), -zero


def tune(
    f: Problem, m: int, theta: Vector, w: Vector, *, name: str, batches: Sequence[Rows] = (), **s: Any
) -> Vector:  # fmt: skip
    """Return the tuned w; `batches` are the rows of each step of those that go through samples, default all of them."""
    steps: Sequence[Rows] = batches or [_ALL] * (s.get("epochs") or s.get("steps") or 1)
    tuned: Vector = globals()[name](Client(f, m, theta), w, steps, s)
    return tuned


def num_gradients(settings: Settings) -> float:
    """Gradients of w that one call counts, as the documentation of the fine-tuners says."""
    return float(globals()[f"gradients_of_{settings['name']}"](settings))


def gradient_descent(client: Client, w: Vector, steps: Sequence[Rows], s: Settings) -> Vector:
    for rows in steps:
        w = w - s["lr"] * client.gradient(w, rows)
    return w


def gradients_of_gradient_descent(s: Settings) -> Any:
    return s["steps"]


sgd = gradient_descent


def gradients_of_sgd(s: Settings) -> Any:
    return s.get("epochs", 1)


def adam(client: Client, w: Vector, steps: Sequence[Rows], s: Settings) -> Vector:
    """Kingma & Ba 2015, Algorithm 1."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, rows in enumerate(steps, start=1):
        g = client.gradient(w, rows)
        m, v = s["beta1"] * m + (1 - s["beta1"]) * g, s["beta2"] * v + (1 - s["beta2"]) * g**2
        w = w - s["lr"] * (m / (1 - s["beta1"] ** t)) / (np.sqrt(v / (1 - s["beta2"] ** t)) + s["epsilon"])
    return w


gradients_of_adam = gradients_of_sgd


def exact(client: Client, w: Vector, steps: Sequence[Rows], s: Settings) -> Vector:
    return np.linalg.solve(*client.system(len(w)))


def gradients_of_exact(s: Settings) -> Any:
    return 0


def conjugate_gradient(client: Client, w: Vector, steps: Sequence[Rows], s: Settings) -> Vector:
    """Hestenes & Stiefel 1952: the minimizer over the Krylov space, one direction a step."""
    A, b = client.system(len(w))
    r = b - A @ w
    p = r
    for _ in steps:
        alpha = (r @ r) / (p @ A @ p)
        w, new = w + alpha * p, r - alpha * A @ p
        p, r = new + (new @ new) / (r @ r) * p, new
    return w


def gradients_of_conjugate_gradient(s: Settings) -> Any:
    return 1 + s["steps"]


def lbfgs(client: Client, w: Vector, steps: Sequence[Rows], s: Settings) -> Vector:
    """Nocedal & Wright 2006, Section 7.2: the inverse Hessian as a matrix, updated by (6.17) with the last pairs."""
    g, hessian = client.gradient(w), client.system(len(w))[0]
    scale = (g @ g) / (g @ hessian @ g)
    pairs: list[tuple[Vector, Vector]] = []
    for _ in steps:
        H = scale * np.eye(len(w))
        for move, y in pairs[-s["history"] :]:
            V = np.eye(len(w)) - np.outer(y, move) / (move @ y)
            H = V.T @ H @ V + np.outer(move, move) / (move @ y)
        p, t = -H @ g, 1.0
        while client.loss(w + t * p) > client.loss(w) + 1e-4 * t * (p @ g):
            t /= 2
        new = client.gradient(w + t * p)
        pairs.append((t * p, new - g))
        w, g = w + t * p, new
        move, y = pairs[-1]
        scale = (move @ y) / (y @ y)
    return w


def gradients_of_lbfgs(s: Settings) -> Any:
    return 2 + s["steps"] * (1 + 8 / 3)
