"""Algorithms that have to be equal to each other in some corner of their settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.algorithms.cases import DIGITS, QUADRATIC
from tests.engine.build import engine

STEPS: dict[str, Any] = {"lr": 0.05, "local_steps": 3}
MINI_BATCHES: dict[str, Any] = {"lr": 0.05, "epochs": 2, "batch_size": 5}
GD: dict[str, Any] = {"name": "gradient_descent", "steps": 3, "lr": 0.05}
REDRAWN: dict[str, Any] = {"name": "conjugate_gradient", "steps": 2, "start": "redraw"}


def final(local: list[str], name: str, settings: dict[str, Any], problem: dict[str, Any] = QUADRATIC, **others: Any):
    """Return (server, states of all clients, views of all clients) after 8 rounds."""
    sections = {"problem": {**problem, "split": {"local": local}}, "algorithm": {"name": name, **settings}}
    running = engine(**sections, **{"rounds": 8, **others})
    list(running)
    states = [running.group.state(client) for client in running.group.clients]
    return running.server, states, [running.setup.algorithm.view(running.server, state) for state in states]


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=tolerance, atol=tolerance)
        assert value.abs().max() > 0


def assert_same_views(one: list[Any], other: list[Any], tolerance: float = 0.0) -> None:
    """Compare whole models, whatever is shared or local in them."""
    assert len(one) == len(other)
    for (shared, local), (other_shared, other_local) in zip(one, other, strict=True):
        assert_close({**shared, **local}, {**other_shared, **other_local}, tolerance)


@pytest.mark.parametrize("tuner", [{"name": "exact"}, GD, REDRAWN], ids=lambda tuner: tuner["name"])
@pytest.mark.parametrize("optimizer", [{"name": "sgd"}, {"name": "momentum"}], ids=lambda optimizer: optimizer["name"])
@pytest.mark.parametrize("cohort", ["all", 2])
def test_local_ffgg_with_one_repetition_is_ffgg(tuner: Any, optimizer: Any, cohort: Any) -> None:
    others = {"server_optimizer": optimizer, "cohort": cohort}
    one = final(["w"], "local_ffgg", {"lr": 0.05, "local_steps": 1, "fine_tuner": tuner}, **others)
    other = final(["w"], "ffgg", {"lr": 0.05, "fine_tuner": tuner}, **others)
    assert_close(one[0]["shared"], other[0]["shared"], 1e-12)
    assert_same_views(one[2], other[2], 1e-12)


def test_local_ffgg_with_one_repetition_is_ffgg_on_mini_batches() -> None:
    sgd = {"name": "sgd", "lr": 0.1, "batch_size": 6, "start": "redraw"}
    one = final(["head.*"], "local_ffgg", {"lr": 0.1, "local_steps": 1, "fine_tuner": sgd}, DIGITS)
    other = final(["head.*"], "ffgg", {"lr": 0.1, "fine_tuner": sgd}, DIGITS)
    assert_same_views(one[2], other[2], 1e-12)


def test_local_ffgg_with_two_repetitions_is_not_ffgg() -> None:
    one = final(["w"], "local_ffgg", {"lr": 0.05, "local_steps": 2, "fine_tuner": GD})
    other = final(["w"], "ffgg", {"lr": 0.05, "fine_tuner": GD})
    assert not torch.allclose(one[0]["shared"]["theta"], other[0]["shared"]["theta"])


@pytest.mark.parametrize(
    ("preset", "method", "local", "settings"),
    [
        ("fedper", "fedsim", ["head.*"], {}),
        ("lg_fedavg", "fedsim", ["hidden1.*"], {}),
        ("fedrep", "fedalt", ["head.*"], {"fine_tuner": {"name": "sgd", "lr": 0.1, "batch_size": 6, "epochs": 3}}),
        ("scaffold_theta", "scaffold", ["head.*"], {}),
    ],
)
def test_presets(preset: str, method: str, local: list[str], settings: dict[str, Any]) -> None:
    one, other = (final(local, name, {**MINI_BATCHES, **settings}, DIGITS) for name in (preset, method))
    assert_same_views(one[2], other[2])


def test_local_gd_is_fedavg_without_mini_batches() -> None:
    one, other = (final([], name, STEPS, DIGITS, rounds=2) for name in ("local_gd", "fedavg"))
    assert_same_views(one[2], other[2])


@pytest.mark.parametrize(("problem", "settings"), [(QUADRATIC, STEPS), (DIGITS, MINI_BATCHES)], ids=["exact", "digits"])
@pytest.mark.parametrize("name", ["fedsim", "fedalt"])
def test_with_everything_shared_they_are_fedavg(name: str, problem: Any, settings: Any) -> None:
    tuner = {"fine_tuner": GD} if name == "fedalt" else {}
    one, other = final([], name, {**settings, **tuner}, problem), final([], "fedavg", settings, problem)
    assert_same_views(one[2], other[2], 1e-12)


@pytest.mark.parametrize(("problem", "settings"), [(QUADRATIC, STEPS), (DIGITS, MINI_BATCHES)], ids=["exact", "digits"])
def test_with_everything_local_fedsim_is_local_only(problem: Any, settings: Any) -> None:
    alone = final([], "local_only", settings, problem)
    assert_same_views(final(["*"], "fedsim", settings, problem)[2], alone[2], 1e-12)
    assert_same_views(final(["*"], "local_only", settings, problem)[2], alone[2], 1e-12)


def test_with_everything_local_fedalt_is_local_only() -> None:
    one = final(["*"], "fedalt", {**STEPS, "fine_tuner": GD})
    assert_same_views(one[2], final([], "local_only", STEPS)[2], 1e-12)


def test_fedalt_with_one_step_is_ffgg() -> None:
    one = final(["w"], "fedalt", {"lr": 0.05, "local_steps": 1, "fine_tuner": REDRAWN})
    assert_same_views(one[2], final(["w"], "ffgg", {"lr": 0.05, "fine_tuner": REDRAWN})[2], 1e-12)


@pytest.mark.parametrize(("problem", "settings"), [(QUADRATIC, STEPS), (DIGITS, MINI_BATCHES)], ids=["exact", "digits"])
def test_fedprox_without_penalty_is_fedavg(problem: Any, settings: Any) -> None:
    one, other = final([], "fedprox", {**settings, "penalty": 0.0}, problem), final([], "fedavg", settings, problem)
    assert_same_views(one[2], other[2], 1e-12)
    pulled = final([], "fedprox", {**settings, "penalty": 1.0}, problem)[0]["shared"]
    assert any(not torch.allclose(value, other[0]["shared"][key], rtol=1e-4) for key, value in pulled.items())


@pytest.mark.parametrize(("problem", "settings"), [(QUADRATIC, STEPS), (DIGITS, MINI_BATCHES)], ids=["exact", "digits"])
def test_ditto(problem: Any, settings: Any) -> None:
    """θ is FedAvg's for any λ; without penalty the own models are those of local_only."""
    free, pulled = (final([], "ditto", {**settings, "penalty": penalty}, problem) for penalty in (0.0, 2.0))
    average, alone = (final([], name, settings, problem) for name in ("fedavg", "local_only"))
    for found in (free, pulled):
        assert_close(found[0]["shared"], average[0]["shared"], 1e-12)
    assert_same_views(free[2], alone[2], 1e-12)
    for (near, _), (far, _) in zip(pulled[2], free[2], strict=True):
        theta = average[0]["shared"]
        assert sum(float(((near[k] - theta[k]) ** 2).sum() - ((far[k] - theta[k]) ** 2).sum()) for k in theta) < 0


@pytest.mark.parametrize(("problem", "settings"), [(QUADRATIC, STEPS), (DIGITS, MINI_BATCHES)], ids=["exact", "digits"])
@pytest.mark.parametrize(("mixing", "same"), [(0.0, "fedavg"), (1.0, "local_only")])
def test_apfl_with_a_fixed_mixture(mixing: float, same: str, problem: Any, settings: Any) -> None:
    one = final([], "apfl", {**settings, "mixing": mixing, "mixing_lr": 0.0}, problem)
    assert_same_views(one[2], final([], same, settings, problem)[2], 1e-12)


def test_apfl_keeps_its_mixture_between_0_and_1() -> None:
    for state in final([], "apfl", {**STEPS, "mixing_lr": 1e3})[1]:
        assert float(state["mixing"]["alpha"]) in (0.0, 1.0)


def test_fedbabu_leaves_the_heads_until_the_end() -> None:
    from ppfl.engine.evaluate import score_stages

    algorithm = {"name": "fedbabu", **MINI_BATCHES, "fine_tuner": {"name": "sgd", "lr": 0.1, "batch_size": 8}}
    problem = {**DIGITS, "split": {"local": ["head.*"]}}
    running = engine(problem=problem, algorithm=algorithm, rounds=8, evaluate={"every": 100, "tuned": {"epochs": 3}})
    list(running)
    for client in running.group.clients:
        initial = running.setup.problem.objective.init_local(client)
        assert all(torch.equal(value, initial[key]) for key, value in running.group.state(client)["local"].items())
    stages = score_stages([running])[0].scores
    assert (stages["personal"]["test_loss"] == stages["global"]["test_loss"]).all()
    assert stages["tuned"]["test_loss"].mean() < stages["personal"]["test_loss"].mean()
