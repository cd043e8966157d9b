"""MoTEF and its baselines on the quadratics of its paper, `ppfl run` against the recursions in NumPy, to 1e-12.

Nodes are rows here: X is (nodes, d). Nothing but the counters of random numbers comes from ppfl.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from ppfl.core.rng import generator
from ppfl.results.parameters import load_shared
from ppfl.results.reader import open_result
from tests.grids import ppfl

NODES, SIZE, ZETA, SEED, ROUNDS = 6, 20, 10.0, 3, 15
ETA, GAMMA, LAMBDA, KEPT = 0.01, 0.3, 0.05, 2
COMPRESSOR = {"name": "top_k", "share": 0.1}
COMMON: dict[str, Any] = {"lr": ETA, "fine_tuner": {"name": "exact"}}
COMPRESSED: dict[str, Any] = {**COMMON, "mixing": GAMMA, "compressor": COMPRESSOR}
METHODS: dict[str, dict[str, Any]] = {
    "dsgd": COMMON,
    "choco_sgd": COMPRESSED,
    "gradient_tracking": COMMON,
    "beer": COMPRESSED,
    "motef": {**COMPRESSED, "momentum": LAMBDA},
    "motef_vr": {**COMPRESSED, "momentum": LAMBDA},
}

Matrix = NDArray[np.float64]


class Quadratics:
    """∇F(X; ξ) of f_i = ½‖a_i x − b_i‖², a_i = i/√n, b_i ~ N(0, ζ²/i² I)."""

    def __init__(self, noise: float | None) -> None:
        number = np.arange(1, NODES + 1)[:, None]
        drawn = [generator(SEED, "quadratic isotropic", client=i).standard_normal(SIZE) for i in range(NODES)]
        self.a, self.b, self.noise = number / np.sqrt(NODES), ZETA / number * np.array(drawn), noise or 0.0

    def exact(self, x: Matrix) -> Matrix:
        gradients: Matrix = self.a * (self.a * x - self.b)
        return gradients

    def at(self, x: Matrix, round: int) -> Matrix:
        xi = [generator(SEED, "gradient noise", round=round, client=i).standard_normal(SIZE) for i in range(NODES)]
        # the data of a client are c − noise, so that the sign of what is added to a gradient is that of −noise
        return self.exact(x) - self.noise / np.sqrt(SIZE) * np.array(xi)


def ring() -> Matrix:
    """W − I with weights of 1/3."""
    shift = np.roll(np.eye(NODES), 1, axis=0)
    weights: Matrix = (shift + shift.T - 2 * np.eye(NODES)) / 3
    return weights


def top(x: Matrix) -> Matrix:
    kept = np.argsort(-np.abs(x), axis=1, kind="stable")[:, :KEPT]
    mask = np.zeros_like(x)
    np.put_along_axis(mask, kept, 1.0, axis=1)
    return mask * x


def rounds_of(name: str, f: Quadratics) -> Iterator[Matrix]:
    """Yield X after each round, as the papers have it."""
    L = ring()
    X = np.zeros((NODES, SIZE))
    H = X.copy()
    M = f.at(X, 0)
    V, G = M.copy(), M.copy()
    yield X
    for t in range(1, ROUNDS + 1):
        if name == "dsgd":
            X = X + L @ X - ETA * f.at(X, t - 1)
        elif name == "choco_sgd":
            half = X - ETA * f.at(X, t - 1)
            H = H + top(half - H)
            X = half + GAMMA * (L @ H)
        elif name == "gradient_tracking":
            X = X + L @ X - ETA * V
            new = f.at(X, t)
            V, M = V + L @ V + new - M, new
        else:
            level, before = 1.0 if name == "beer" else LAMBDA, X
            X = X + GAMMA * (L @ H) - ETA * V
            H = H + top(X - H)
            new = (1 - level) * M + level * f.at(X, t)
            if name == "motef_vr":  # both gradients with the noise of one round
                new = f.at(X, t) + (1 - level) * (M - f.at(before, t))
            V, M = V + GAMMA * (L @ G) + new - M, new
            G = G + top(V - G)
        yield X


@pytest.mark.parametrize("noise", [None, 10.0], ids=["exact", "noisy"])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_the_recursion_of_its_paper(name: str, noise: float | None, tmp_path: Path) -> None:
    problem = {"name": "quadratic", "generator": "isotropic", "clients": NODES, "gradient_noise": noise}
    config = {
        "name": "crosscheck", "seed": SEED, "rounds": ROUNDS, "precision": "float64", "problem": problem,
        "algorithm": {"name": name, **METHODS[name]}, "gossip": {"graph": {"name": "ring"}},
        "evaluate": {"every": 1, "tuned": None},
    }  # fmt: skip
    path, out = tmp_path / "run.yaml", tmp_path / "run.h5"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    ended = ppfl("run", path, "--out", out)
    assert ended.exit_code == 0, ended.output
    result, f = open_result(out), Quadratics(noise)
    rounds = result.rounds
    X = np.array(list(rounds_of(name, f)))
    mean = X.mean(axis=1)
    norms = [float(np.linalg.norm(f.exact(np.tile(x, (NODES, 1))).mean(axis=0))) for x in mean]
    apart = ((X - mean[:, None]) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(rounds["operator_norm"].to_numpy(), norms, rtol=1e-12)
    np.testing.assert_allclose(rounds["consensus"].to_numpy(), apart, rtol=1e-12, atol=1e-20)
    np.testing.assert_allclose(load_shared(out)["theta"].numpy(), mean[-1], rtol=1e-12, atol=1e-13)
    assert norms[-1] < norms[0]
    assert result.problem["num_edges"] == NODES
    np.testing.assert_allclose(result.problem["spectral_gap"], 1 / 3, rtol=1e-12)
