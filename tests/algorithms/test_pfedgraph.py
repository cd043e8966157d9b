"""Who works with whom: limits, identities, and groups that are told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.algorithms.pfedgraph import PFedGraph, cosines
from ppfl.config.errors import ConfigError
from ppfl.core.errors import UserError
from tests.algorithms.cases import DIGITS, QUADRATIC, sections
from tests.algorithms.test_identities import MINI_BATCHES, STEPS, assert_same_views, final
from tests.engine.build import config, engine

MIXING = {"every": 1, "tuned": {"epochs": 0}, "reports": ["mixing"]}
EVERYBODY, NOBODY = 1e300, 1e-300


def weights_of(penalty: float, vectors: Any, weights: Any) -> torch.Tensor:
    x = torch.as_tensor(vectors, dtype=torch.float64)
    method = PFedGraph(name="pfedgraph", lr=0.1, local_steps=1, penalty=penalty)
    return method.mixing(x @ x.T, torch.as_tensor(weights, dtype=torch.float64))


def test_a_row_minimizes_what_it_is_to_minimize() -> None:
    """λ‖a‖² + ⟨d_i − 2λp, a⟩, against points of the simplex near it and far away."""
    draw = np.random.default_rng(0)
    x, n = draw.standard_normal((6, 3)), draw.integers(1, 9, 6)
    for penalty in (0.05, 0.5, 5.0):
        W = weights_of(penalty, x, n).numpy()
        lengths = np.linalg.norm(x, axis=1)
        unlike = -(x @ x.T) / np.outer(lengths, lengths)
        unlike[unlike < -0.9] = -1.0
        linear = unlike - 2 * penalty * n / n.sum()
        others = np.concatenate([draw.dirichlet(np.ones(6), 300), 0.99 * W + 0.01 * draw.dirichlet(np.ones(6), 6)])
        for row, cost in zip(W, linear, strict=True):
            assert ((penalty * others**2 + others * cost).sum(axis=1) >= penalty * row @ row + cost @ row - 1e-12).all()


@pytest.mark.parametrize("penalty", [NOBODY, 1e-3, 1.0, EVERYBODY])
@pytest.mark.parametrize("vector", [[1.0, -2.0, 1e-3], [0.0, 0.0, 0.0]])
def test_identical_clients_get_the_mean_whatever_the_penalty(penalty: float, vector: list[float]) -> None:
    found = weights_of(penalty, [vector] * 4, [3, 1, 4, 2])
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.1, 0.4, 0.2]] * 4).double(), rtol=1e-7, atol=0)


def test_clients_below_the_threshold_are_apart_and_those_above_it_one() -> None:
    """cos = 0.8 and 0.95: as λ → 0 the one is nobody, the other a half of oneself."""
    found = weights_of(NOBODY, [[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0], [-0.95, -(0.0975**0.5)]], [1, 1, 1, 1])
    wanted = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]]).double()
    torch.testing.assert_close(found, wanted)


def test_who_has_not_moved_is_like_others_that_have_not() -> None:
    wanted = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]).double()
    assert torch.equal(cosines(torch.diag(torch.tensor([0.0, 4.0, 0.0]).double())), wanted)


@pytest.mark.parametrize(("problem", "settings"), [(QUADRATIC, STEPS), (DIGITS, MINI_BATCHES)], ids=["exact", "digits"])
@pytest.mark.parametrize("weights", ["uniform", "samples"])
def test_an_infinite_penalty_is_federated_averaging(problem: Any, settings: Any, weights: str) -> None:
    if problem is QUADRATIC and weights == "samples":
        weights = "uniform"
    mixed = final([], "pfedgraph", {**settings, "penalty": EVERYBODY}, problem, weights=weights)
    assert_same_views(mixed[2], final([], "fedavg", settings, problem, weights=weights)[2], 1e-12)


def test_with_local_parameters_it_is_fedsim() -> None:
    local, settings = ["head.*"], {**MINI_BATCHES, "penalty": EVERYBODY}
    mixed = final(local, "pfedgraph", settings, DIGITS)
    assert_same_views(mixed[2], final(local, "fedsim", MINI_BATCHES, DIGITS)[2], 1e-12)


@pytest.mark.parametrize("local", [[], ["head.*"]])
def test_without_penalty_clients_that_differ_are_alone(local: list[str]) -> None:
    """Here no cosine with another one is above 0.9 in any round, which is what the limit asks for."""
    problem, settings = {**DIGITS, "split": {"local": local}}, {**MINI_BATCHES, "penalty": NOBODY}
    running = engine(problem=problem, algorithm={"name": "pfedgraph", **settings}, rounds=8, evaluate=MIXING)
    for scored in list(running)[1:]:
        np.testing.assert_array_equal(scored.metrics["report_mixing"], np.eye(6))
    alone = final(local, "local_only", MINI_BATCHES, DIGITS)[2]
    assert_same_views(final(local, "pfedgraph", settings, DIGITS)[2], alone, 1e-12)


def test_without_penalty_clients_above_the_threshold_are_not() -> None:
    mixed = final([], "pfedgraph", {**STEPS, "penalty": NOBODY})[2]
    alone = final([], "local_only", STEPS)[2]
    with pytest.raises(AssertionError):
        assert_same_views(mixed, alone, 1e-3)


def test_the_order_of_clients_does_not_matter() -> None:
    """The same clients in another order have the same weights: nobody mixes from what was mixed before."""
    x, n = np.random.default_rng(3).standard_normal((5, 4)), np.array([1.0, 2, 3, 4, 5])
    order = [3, 0, 4, 1, 2]
    found = weights_of(0.3, x, n)
    torch.testing.assert_close(weights_of(0.3, x[order], n[order]), found[order][:, order], rtol=1e-13, atol=0)


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("inf"), float("nan")])
def test_penalties_that_are_refused(penalty: float) -> None:
    valid = sections("pfedgraph", "quadratic")
    with pytest.raises(ConfigError, match=r"algorithm\.penalty: .*allowed: a number greater than 0"):
        config(**{**valid, "algorithm": {**valid["algorithm"], "penalty": penalty}})


def test_what_does_not_go_with_it() -> None:
    for others, said in (
        ({"cohort": 1}, r"cohort: .*at least 2"),
        ({"aggregator": {"name": "median"}}, r"aggregator\.name: .*'mean', since 'pfedgraph' takes the mean alone"),
        ({"aggregator": {"name": "mean", "before": [{"name": "nnm", "f": 1}]}}, r"aggregator\.before: .*nothing"),
        ({"asynchronous": {"engine": "virtual"}, "compute_times": {"name": "exponential"}}, r"algorithm\.name: "),
        ({"server_optimizer": {"name": "momentum"}}, r"algorithm\.name: .*leave server_optimizer out"),
    ):
        with pytest.raises(UserError, match=said):
            engine(**sections("pfedgraph", "quadratic", **others))
