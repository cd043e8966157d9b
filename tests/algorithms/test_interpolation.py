"""Interpolation at its ends, and on means, where where it goes is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.interfaces.pre_aggregator import RandomKey
from ppfl.rows.client_matrix import ClientMatrix
from tests import examples
from tests.engine.build import engine

MEANS = {"name": "quadratic", "generator": "means", "clients": 11, "shared_dimension": 5}
SHARED = {"name": "quadratic", "generator": "comparison", "zeta": 1.0, "clients": 9, "shared_dimension": 6,
          "local_dimension": 4, "rows": 20, "split": {"local": []}}  # fmt: skip
DIGITS = examples.section("problems", "supervised")
RULES: dict[str, dict[str, Any]] = {
    "mean": {"name": "mean"},
    "median": {"name": "median"},
    "trimmed mean": {"name": "trimmed_mean", "f": 2},
    "nnm": {"name": "trimmed_mean", "f": 2, "before": [{"name": "nnm"}]},
}
NOTHING = {"name": "gradient_descent", "steps": 1, "lr": 0.1}


def ended(problem: Any, method: Any, rounds: int = 5, **others: Any) -> Any:
    running = engine(problem=problem, algorithm=method, rounds=rounds, **others)
    scores = list(running)
    return running, scores


def method(collaboration: float, lr: float = 0.1, **others: Any) -> dict[str, Any]:
    return {"name": "interpolation", "lr": lr, "collaboration": collaboration, **others}


INF = {"attack": {"name": "inf"}, "clients": 2, "placement": "among"}


@pytest.mark.parametrize(
    ("problem", "batch"),
    [(SHARED | {"split": {"local": ["w"]}}, {}), (DIGITS | {"split": {"local": ["head.*"]}}, {"batch_size": 5})],
    ids=["quadratic", "digits in mini-batches"],
)
def test_without_collaboration_it_is_local_only_in_bits(problem: Any, batch: Any) -> None:
    """Also where attackers send inf to the mean: what the others answer is not asked for."""
    found, scored = ended(problem, method(0.0, **batch), byzantine=INF)
    alone, rows = ended(problem, {"name": "local_only", "lr": 0.1, "local_steps": 1, **batch}, byzantine=INF)
    for client in alone.group.clients:
        for group, params in alone.group.state(client).items():
            assert all(torch.equal(found.group.state(client)[group][name], x) for name, x in params.items())
    for one, other in zip(scored, rows, strict=True):
        assert one.metrics.keys() == other.metrics.keys()
        assert all(np.array_equal(one.metrics[key], value) for key, value in other.metrics.items())
        assert all(one.costs[key] == other.costs[key] for key in one.costs if not key.endswith("seconds"))


@pytest.mark.parametrize("attack", ["sign_flip", "little_is_enough", "inner_product", "mimic"])
def test_full_collaboration_from_a_common_start_is_byzantine_gradient_descent(attack: str) -> None:
    byzantine = {"attack": examples.section("attacks", attack), "clients": 2, "placement": "among"}
    others = {"byzantine": byzantine, "aggregator": RULES["nnm"], "rounds": 8}
    found, _ = ended(SHARED, method(1.0, lr=0.05), **others)
    descent, _ = ended(SHARED, {"name": "ffgg", "lr": 0.05, "fine_tuner": NOTHING}, **others)
    for client in found.setup.algorithm.mains:
        for name, value in found.group.state(client)["personal"].items():
            np.testing.assert_allclose(value.numpy(), descent.server["shared"][name].numpy(), rtol=1e-12, atol=1e-13)


def test_without_attackers_the_mean_keeps_all_clients_at_one_point() -> None:
    found, _ = ended(SHARED, method(1.0, lr=0.05))
    descent, _ = ended(SHARED, {"name": "ffgg", "lr": 0.05, "fine_tuner": NOTHING})
    first = found.group.state(0)["personal"]
    for client in found.group.clients:
        assert all(torch.equal(found.group.state(client)["personal"][name], value) for name, value in first.items())
    for name, value in first.items():
        np.testing.assert_allclose(value.numpy(), descent.server["shared"][name].numpy(), rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_on_means_the_distance_to_the_fixed_point_falls_by_one_minus_the_step(rule: str) -> None:
    """θ_i − [(1−λ)y_i + λR(y)] is (1−γ)^T times what it was, for rules that commute with shifts and the sign."""
    lr, level, rounds = 0.2, 0.6, 7
    found, _ = ended(MEANS, method(level, lr=lr), rounds=rounds, aggregator=RULES[rule])
    problem = found.setup.problem
    y = torch.stack([problem.client_data.data(m, 0)["shared_linear"] for m in range(11)])
    of_all = found.setup.aggregator(ClientMatrix(SoloCommunicator(), y.clone(), 5), RandomKey())
    for client in range(11):
        limit = (1 - level) * y[client] + level * of_all
        distance = found.group.state(client)["personal"]["theta"] - limit
        np.testing.assert_allclose(distance, (1 - lr) ** rounds * -limit, rtol=1e-12)


def test_own_step_and_answers_follow_the_schedule() -> None:
    """The same distance is Π_t (1 − γ_t) times what it was."""
    scheduled = method(0.6, lr=0.4, lr_schedule={"name": "linear"})
    found, _ = ended(MEANS, scheduled, rounds=4)
    steps = [found.setup.algorithm_at(t).lr for t in range(4)]
    assert len(set(steps)) == 4
    y = torch.stack([found.setup.problem.client_data.data(m, 0)["shared_linear"] for m in range(11)])
    limits = 0.4 * y + 0.6 * y.mean(dim=0)
    reached = torch.stack([found.group.state(m)["personal"]["theta"] for m in range(11)])
    np.testing.assert_allclose(reached - limits, -np.prod(1 - np.array(steps)) * limits, rtol=1e-12)


def test_local_parts_follow_their_own_gradient() -> None:
    problem = SHARED | {"split": {"local": ["w"]}}
    found, _ = ended(problem, method(0.5, lr=0.05), rounds=1)
    objective, data = found.setup.problem.objective, found.setup.problem.client_data.data(3, 0)
    start = objective.init_shared(), objective.init_local(3)
    of_local = objective.local_gradient(*start, data)["w"]
    assert torch.equal(found.group.state(3)["local"]["w"], start[1]["w"] - 0.05 * of_local)


def test_own_gradient_and_answers_see_other_mini_batches() -> None:
    found, _ = ended(DIGITS, method(0.5, batch_size=5), rounds=1)
    algorithm, objective = found.setup.algorithm, found.setup.problem.objective
    own, answer = (draw(objective, 1, 0, 30) for draw in (algorithm.draws, algorithm.answer_draws))
    assert own.keys() == answer.keys()
    assert not torch.equal(own["order of samples for training"], answer["order of samples for training"])
