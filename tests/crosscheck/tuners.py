"""Every fine-tuner once more, on the w of one client with θ fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.crosscheck.problem import TRAIN, Problem, Vector

Settings = dict[str, Any]
Rows = NDArray[np.int64] | slice


def tune(
    f: Problem, m: int, theta: Vector, w: Vector, *, name: str, batches: Sequence[Rows] = (), **s: Any
) -> Vector:  # fmt: skip
    """Return the tuned w; `batches` are the rows of each step of those that go through samples, default all of them."""
    x, y = TRAIN[m]

    def gradient(v: Vector, rows: Rows = slice(None)) -> Vector:
        return f.gradients((x[rows], y[rows]), theta, v)[1]

    steps: Sequence[Rows] = batches or [slice(None)] * (s.get("epochs") or s.get("steps") or 1)
    match name:
        case "gradient_descent" | "sgd":
            for rows in steps:
                w = w - s["lr"] * gradient(w, rows)
            return w
        case "adam":
            return _adam(gradient, w, steps, s)
    # the others solve, or approximately solve, a system whose matrix is the Hessian; the gradient is linear in w
    zero = gradient(np.zeros_like(w))
    hessian = np.stack([gradient(unit) - zero for unit in np.eye(len(w))], axis=1)
    match name:
        case "exact":
            return np.linalg.solve(hessian, -zero)
        case "conjugate_gradient":
            return _conjugate_gradients(hessian, -zero, w, s["steps"])
        case "lbfgs":
            return _bfgs(lambda v: f.loss(TRAIN[m], theta, v), gradient, hessian, w, s["steps"], s["history"])
    raise KeyError(name)


def num_gradients(settings: Settings) -> float:
    """Gradients of w that one call counts, as the documentation of the fine-tuners says."""
    match settings["name"]:
        case "gradient_descent":
            return float(settings["steps"])
        case "sgd" | "adam":
            return float(settings.get("epochs", 1))
        case "exact":
            return 0.0
        case "conjugate_gradient":
            return 1.0 + settings["steps"]
        case "lbfgs":
            return 2.0 + settings["steps"] * (1.0 + 8 / 3)
    raise KeyError(settings["name"])


def _adam(gradient: Any, w: Vector, batches: Sequence[Rows], s: Settings) -> Vector:
    """Kingma & Ba 2015, Algorithm 1."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, rows in enumerate(batches, start=1):
        g = gradient(w, rows)
        m, v = s["beta1"] * m + (1 - s["beta1"]) * g, s["beta2"] * v + (1 - s["beta2"]) * g**2
        w = w - s["lr"] * (m / (1 - s["beta1"] ** t)) / (np.sqrt(v / (1 - s["beta2"] ** t)) + s["epsilon"])
    return w


def _conjugate_gradients(A: Vector, b: Vector, x: Vector, steps: int) -> Vector:
    """Hestenes & Stiefel 1952: the minimizer over the Krylov space, one direction a step."""
    r = b - A @ x
    p = r
    for _ in range(steps):
        alpha = (r @ r) / (p @ A @ p)
        x, new = x + alpha * p, r - alpha * A @ p
        p, r = new + (new @ new) / (r @ r) * p, new
    return x


def _bfgs(loss: Any, gradient: Any, hessian: Vector, w: Vector, steps: int, history: int) -> Vector:
    """Nocedal & Wright 2006, Section 7.2: the inverse Hessian as a matrix, updated by (6.17) with the last pairs."""
    g = gradient(w)
    scale = (g @ g) / (g @ hessian @ g)
    pairs: list[tuple[Vector, Vector]] = []
    for _ in range(steps):
        H = scale * np.eye(len(w))
        for s, y in pairs[-history:]:
            V = np.eye(len(w)) - np.outer(y, s) / (s @ y)
            H = V.T @ H @ V + np.outer(s, s) / (s @ y)
        p, t = -H @ g, 1.0
        while loss(w + t * p) > loss(w) + 1e-4 * t * (p @ g):
            t /= 2
        new = gradient(w + t * p)
        pairs.append((t * p, new - g))
        w, g = w + t * p, new
        s, y = pairs[-1]
        scale = (s @ y) / (y @ y)
    return w
