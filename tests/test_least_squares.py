"""The least-squares problem: its loss, w*(θ) in closed form, and runs that use it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.core.errors import UserError
from ppfl.core.types import Data, Params
from ppfl.diagnose.measure import measure
from ppfl.engine.evaluate import score_stages
from ppfl.engine.ledger import Scored
from ppfl.fine_tuners.conjugate_gradient import ConjugateGradient
from ppfl.fine_tuners.exact import Exact
from ppfl.fine_tuners.gradient_descent import GradientDescent
from ppfl.interfaces.client_data import join
from ppfl.problems._least_squares_problem import _solve, ridge_regression
from ppfl.problems._supervised_problem import SupervisedProblem
from ppfl.problems.least_squares import LeastSquaresSettings
from ppfl.runs.assemble import build
from tests.engine.build import config, engine, ffgg, scores
from tests.ranks import on_ranks
from tests.supervised_problems import CNN, CONFIG, make

RIDGE = 0.05
KEYS: dict[str, Any] = {"name": "least_squares", "ridge": RIDGE}
NARROW, WIDE = {"name": "mlp", "hidden": [12, 7]}, {"name": "mlp", "hidden": [12, 60]}
"""Heads with fewer inputs than a batch has samples, 20, and with more."""
EXACT = {"name": "exact"}
RUN: dict[str, Any] = {
    "problem": {**CONFIG, **KEYS, "ridge": 1e-3},
    "algorithm": ffgg(EXACT, 0.3),
    "precision": "float32",
    "rounds": 12,
    "evaluate": {"every": 6, "tuned": {"epochs": 2}},
}


def least_squares(
    model: dict[str, Any] = NARROW, local: tuple[str, ...] = ("head.*",), **others: Any
) -> SupervisedProblem:
    return make({**KEYS, "model": model, "split": {"local": local}}, **others)


def weighted(data: Data) -> Data:
    """Give samples the weights 0, 1, 2, 0, …"""
    return {**data, "weight": (torch.arange(len(data["y"])) % 3).to(torch.float64)}


def mlp(params: Params, x: torch.Tensor) -> torch.Tensor:
    """The network, written down again."""
    for layer in ("hidden1", "hidden2"):
        x = torch.relu(x.flatten(1) @ params[f"{layer}.weight"].T + params[f"{layer}.bias"])
    return x @ params["head.weight"].T + params["head.bias"]


def norm(params: Params) -> float:
    return math.sqrt(sum(float(value.square().sum()) for value in params.values()))


# --- the loss


@pytest.mark.parametrize("local_globs", [("head.*",), ("hidden2.*", "head.*"), ("hidden1.bias",)], ids=str)
@pytest.mark.parametrize("with_weights", [False, True])
def test_loss_and_gradients_are_those_of_plain_autograd(local_globs: tuple[str, ...], with_weights: bool) -> None:
    problem = least_squares(local=local_globs)
    shared, local, data = (
        problem.objective.init_shared(),
        problem.objective.redraw_local(1, 3),
        problem.client_data.data(1, 0),
    )
    data = weighted(data) if with_weights else data
    leaves = {name: value.clone().requires_grad_() for name, value in {**shared, **local}.items()}
    errors = mlp(leaves, data["x"]) - torch.eye(10, dtype=torch.float64)[data["y"]]
    v = data.get("weight", torch.ones(len(errors), dtype=torch.float64))
    data_loss = sum(v[s] / v.sum() * (errors[s] @ errors[s]) / 2 for s in range(len(errors)))
    loss = data_loss + RIDGE / 2 * sum((leaves[name] ** 2).sum() for name in local)
    wanted = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    torch.testing.assert_close(problem.objective.loss(shared, local, data), loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(problem.scores.data_loss(shared, local, data), data_loss.detach(), rtol=1e-12, atol=0)
    of_shared, of_local = problem.objective.gradients(shared, local, data)
    for found in (of_shared, of_local, problem.objective.shared_gradient(shared, local, data)):
        assert all(float((value - wanted[name]).abs().max()) <= 1e-10 for name, value in found.items())
    for given in (data, problem.objective.advance(shared, data)):
        found = problem.objective.local_gradient(shared, local, given)
        assert all(float((found[name] - wanted[name]).abs().max()) <= 1e-10 for name in local)
    assert set(of_shared) | set(of_local) == set(leaves)


def test_scores_are_of_the_data_alone() -> None:
    problem = least_squares()
    shared, local = problem.objective.init_shared(), problem.objective.redraw_local(1, 3)
    found = problem.scores.round_metrics(shared, local, 1, 0)
    data = problem.client_data.samples(1, "test", torch.arange(problem.client_data.num_test_samples[1]))
    logits = mlp({**shared, **local}, data["x"])
    errors = logits - torch.nn.functional.one_hot(data["y"], 10)
    assert found["test_loss"] == pytest.approx(float(errors.square().sum() / 2 / len(errors)), rel=1e-12)
    assert found["test_accuracy"] == float((logits.argmax(dim=1) == data["y"]).double().mean())
    assert found["loss"] == float(problem.objective.loss(shared, local, problem.client_data.data(1, 0)))
    assert found["loss"] > float(problem.scores.data_loss(shared, local, problem.client_data.data(1, 0)))


# --- w*(θ)


def by_lstsq(features: np.ndarray, labels: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Ridge regression as plain least squares with one more row for each unknown, (classes, width + 1)."""
    root = np.sqrt(v / v.sum())[:, None]
    inputs = np.column_stack([features, np.ones(len(features))])
    rows = np.vstack([root * inputs, math.sqrt(RIDGE) * np.eye(inputs.shape[1])])
    right = np.vstack([root * np.eye(10)[labels], np.zeros((inputs.shape[1], 10))])
    return np.linalg.lstsq(rows, right, rcond=None)[0].T


@pytest.mark.parametrize("model", [NARROW, WIDE], ids=["S > width", "S < width"])
@pytest.mark.parametrize("with_weights", [False, True])
def test_exact_w_is_stationary_and_what_lstsq_says(model: dict[str, Any], with_weights: bool) -> None:
    problem = least_squares(model)
    shared = problem.objective.init_shared()
    for client in range(3):
        data = weighted(problem.client_data.data(client, 0)) if with_weights else problem.client_data.data(client, 0)
        best = problem.objective.exact_local(shared, data)
        assert list(best) == ["head.weight", "head.bias"]
        assert norm(problem.objective.local_gradient(shared, best, data)) <= 1e-10
        advanced = problem.objective.advance(shared, data)
        v = data.get("weight", torch.ones(len(data["y"]), dtype=torch.float64))
        wanted = by_lstsq(advanced["features"].numpy(), data["y"].numpy(), v.numpy())
        found = torch.cat([best["head.weight"], best["head.bias"][:, None]], dim=1)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-10)
        assert all(value.is_contiguous() for value in best.values())
        again = problem.objective.exact_local(shared, advanced)
        assert all(torch.equal(value, best[name]) for name, value in again.items())


@pytest.mark.parametrize("model", [NARROW, WIDE], ids=["S > width", "S < width"])
def test_padded_rows_and_other_clients_do_not_change_exact_w(model: dict[str, Any]) -> None:
    """vmap over clients that are padded to one size equals the loop over clients."""
    problem = least_squares(model)
    shared = problem.objective.init_shared()
    datas = [problem.client_data.data(client, 0) for client in range(4)]
    datas = [{name: value[: 20 - 2 * client] for name, value in data.items()} for client, data in enumerate(datas)]

    def padded(data: Data) -> Data:
        missing = 20 - len(data["y"])
        weight = torch.cat([torch.ones(len(data["y"])), torch.zeros(missing)]).double()
        return {n: torch.cat([v, v.new_ones(missing, *v.shape[1:])]) for n, v in data.items()} | {"weight": weight}

    stacked = {name: torch.stack([padded(data)[name] for data in datas]) for name in ("x", "y", "weight")}
    together = torch.func.vmap(lambda data: problem.objective.exact_local(shared, data))(stacked)
    for client, data in enumerate(datas):
        for name, value in problem.objective.exact_local(shared, data).items():
            torch.testing.assert_close(together[name][client], value, rtol=1e-9, atol=1e-10)


def test_exact_w_is_computed_in_float64_whatever_the_precision() -> None:
    """With a ridge far below the rounding of float32, the float32 result is the rounded float64 one."""
    problem = make({**KEYS, "ridge": 1e-8, "model": WIDE, "batch_size": "all"}, dtype=torch.float32)
    shared, data = problem.objective.init_shared(), problem.client_data.data(0, 0)
    features = problem.objective.advance(shared, data)
    found = problem.objective.exact_local(shared, features)
    wanted = problem.objective.exact_local(shared, {**features, "features": features["features"].double()})
    for name, value in wanted.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value.float())


def test_exact_w_of_features_that_are_not_finite_is_nan() -> None:
    """A run that has diverged is seen to have diverged."""
    for model in (NARROW, WIDE):
        problem = least_squares(model)
        for wrong in (math.nan, math.inf):
            shared = {name: value * wrong for name, value in problem.objective.init_shared().items()}
            best = problem.objective.exact_local(shared, problem.client_data.data(0, 0))
            assert all(bool(value.isnan().all()) for value in best.values())
    indefinite = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    assert bool(_solve(indefinite, 1e-3, torch.ones(3, 2, dtype=torch.float64)).isnan().all())


@pytest.mark.parametrize("model", [NARROW, WIDE, CNN], ids=lambda model: str(model.get("hidden")))
def test_the_gradient_at_exact_w_is_that_of_its_loss(model: dict[str, Any]) -> None:
    """∇F_m(θ) = ∇_1 f_m(θ, w*(θ)), F_m(θ) = min_w f_m(θ, w), by differences through the network and the solution."""
    problem = least_squares(model)
    shared, data = problem.objective.init_shared(), weighted(problem.client_data.data(2, 0))

    def smallest(theta: Params) -> float:
        return float(problem.objective.loss(theta, problem.objective.exact_local(theta, data), data))

    once = problem.objective.shared_pass(shared, data)
    gradient = once.shared_gradient(problem.objective.exact_local(shared, once.data))
    draw = torch.Generator().manual_seed(0)
    for name, value in shared.items():
        direction = torch.randn(value.shape, generator=draw, dtype=torch.float64)
        forth, back = (smallest({**shared, name: value + step * direction}) for step in (1e-5, -1e-5))
        slope = float((gradient[name] * direction).sum())
        assert (forth - back) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def test_iterative_fine_tuners_converge_to_exact_w() -> None:
    problem = least_squares()
    shared, data = problem.objective.init_shared(), problem.client_data.data(1, 0)
    start, best = problem.objective.redraw_local(1, 3), problem.objective.exact_local(shared, data)
    exact = Exact(name="exact")(problem.objective, shared, start, data, {}).local
    assert all(torch.equal(value, best[name]) for name, value in exact.items())
    for tuner in (
        ConjugateGradient(name="conjugate_gradient", steps=40),
        GradientDescent(name="gradient_descent", steps=4000, lr=0.1),
    ):
        found = tuner(problem.objective, shared, start, data, {}).local
        assert norm({name: value - best[name] for name, value in found.items()}) < 1e-8, tuner.name


# --- what has no closed form, and bad settings


@pytest.mark.parametrize("local", [["head.bias"], ["hidden2.*", "head.*"], ["hidden1.weight"], ["*"]], ids=str)
def test_exact_is_refused_unless_the_last_layer_alone_is_local(local: list[str]) -> None:
    problem = {**RUN["problem"], "split": {"local": local}}
    with pytest.raises(UserError, match=r"algorithm\.fine_tuner\.name: 'exact' needs .* local are .*, not weight"):
        build(config(**{**RUN, "problem": problem}), SoloCommunicator())
    built = make(problem)
    with pytest.raises(NotImplementedError):
        built.objective.exact_local(built.objective.init_shared(), built.client_data.data(0, 0))


def test_exact_is_refused_for_cross_entropy_and_theory_for_both() -> None:
    cross_entropy = {key: value for key, value in RUN["problem"].items() if key != "ridge"} | {"name": "supervised"}
    with pytest.raises(UserError, match=r"algorithm\.fine_tuner\.name: 'exact' .*allowed: .*least_squares"):
        build(config(**{**RUN, "problem": cross_entropy}), SoloCommunicator())
    with pytest.raises(UserError, match="'theory' needs a problem that knows its curvature"):
        build(config(**{**RUN, "algorithm": ffgg(EXACT, "theory")}), SoloCommunicator())


@pytest.mark.parametrize("num_samples", [10, 100])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e6])
def test_features_beside_which_the_ridge_is_lost_give_nan_and_no_wrong_number(scale: float, num_samples: int) -> None:
    """Features of rank 1: with a ridge of 1e-8 rounding decides, where they are large."""
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(1, 40, generator=draw, dtype=torch.float64)
    features = scale * torch.rand(num_samples, 1, generator=draw, dtype=torch.float64) * direction
    labels = torch.arange(num_samples) % 3
    found = ridge_regression(features, labels, None, 3, 1e-8).numpy()
    A = np.hstack([features.numpy(), np.ones((num_samples, 1))]) / math.sqrt(num_samples)
    U, s, V = np.linalg.svd(A, full_matrices=False)
    wanted = (V.T * (s / (s**2 + 1e-8))) @ U.T @ np.eye(3)[labels] / math.sqrt(num_samples)
    if scale < 100.0:
        assert np.abs(found - wanted.T).max() <= 1e-2 * np.abs(wanted).max()
    else:
        assert np.isnan(found).all()


@pytest.mark.parametrize("ridge", [0, 0.0, -1.0, 1e-9, math.inf, math.nan, "small", None])
def test_bad_ridges_are_refused(ridge: object) -> None:
    with pytest.raises(ValidationError, match="ridge"):
        LeastSquaresSettings.model_validate({**CONFIG, **KEYS, "ridge": ridge})


def test_where_everything_is_linear_or_nothing_is_local_there_is_a_closed_form() -> None:
    linear = least_squares({"name": "logistic_regression"}, ("*",))
    assert linear.objective.needs_iterations == ""
    best = linear.objective.exact_local({}, linear.client_data.data(0, 0))
    assert norm(linear.objective.local_gradient({}, best, linear.client_data.data(0, 0))) < 1e-10
    shared_alone = least_squares(local=())
    assert (
        shared_alone.objective.exact_local(shared_alone.objective.init_shared(), shared_alone.client_data.data(0, 0))
        == {}
    )
    assert shared_alone.objective.needs_iterations == ""
    assert shared_alone.all_local().objective.needs_iterations != ""


# --- runs


def numbers(found: list[Scored]) -> list[tuple[Any, ...]]:
    return [(one.round, *((name, np.asarray(value).tobytes()) for name, value in one.metrics.items())) for one in found]


def test_ffgg_with_exact_heads_decreases_the_loss() -> None:
    found = scores(**{**RUN, "problem": {**RUN["problem"], "batch_size": "all"}, "rounds": 30})
    losses = [float(one.metrics["loss"]) for one in found]
    assert found[-1].round == 30
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < 0.75 * losses[1]


@pytest.mark.parametrize("sections", [{}, {"byzantine": {"attack": {"name": "label_flip"}, "clients": 2}}], ids=str)
def test_ranks_have_the_bits_of_one_process(sections: dict[str, Any]) -> None:
    alone = numbers(scores(**RUN, **sections))
    assert len(alone) == 3
    assert numbers(scores(**{**RUN, "seed": 1}, **sections)) != alone

    def run(communicator: Communicator) -> list[tuple[Any, ...]]:
        return numbers(scores(communicator, **RUN, **sections))

    assert on_ranks(2, run) == [alone, alone]


def test_chunks_of_clients_equal_the_loop() -> None:
    run = {**RUN, "precision": "float64"}
    loop, chunks = scores(**run), scores(**run, engine={"clients_per_chunk": 3})
    for one, other in zip(loop, chunks, strict=True):
        for name in ("loss", "test_loss", "validation_loss"):
            assert float(one.metrics[name]) == pytest.approx(float(other.metrics[name]), rel=1e-9)


def test_bodies_in_bfloat16_have_exact_heads() -> None:
    problem = least_squares(dtype=torch.float32, body_dtype=torch.bfloat16)
    shared, data = problem.objective.init_shared(), problem.client_data.data(1, 0)
    best = problem.objective.exact_local(shared, data)
    assert norm(problem.objective.local_gradient(shared, best, data)) < 1e-6


def test_the_final_stage_is_exact_on_all_samples_of_a_client() -> None:
    """Not on the last of the batches that samples are cut into."""
    running = engine(**RUN)
    list(running)
    setup = running.setup
    assert setup.problem.client_data.num_train_samples[0] > 20
    found = score_stages([running])[0].scores["tuned"]["test_loss"]
    theta = running.server["shared"]
    for client in range(setup.problem.client_data.num_clients):
        whole = join(setup.problem.client_data.training_epoch(client, 0))
        assert len(whole["y"]) == setup.problem.client_data.num_train_samples[client]
        tuned = setup.problem.objective.exact_local(theta, whole)
        wanted = setup.problem.scores.client_metrics(theta, tuned, client)["test_loss"]
        assert found[client] == pytest.approx(wanted, rel=1e-4, nan_ok=True)


def test_diagnose_takes_exact_w_and_leaves_the_ridge_out_of_the_gap() -> None:
    tuner = {"name": "gradient_descent", "steps": 1, "lr": 1e-6}
    setup = build(config(**{**RUN, "algorithm": ffgg(tuner, 0.3)}), SoloCommunicator())
    problem, theta = setup.problem, setup.problem.objective.init_shared()
    found = measure(setup, theta, problem.objective.init_local, 100).scores["train_loss"]
    for client in range(problem.client_data.num_clients):
        whole = join(problem.client_data.training_epoch(client, 0))
        best = problem.objective.exact_local(theta, whole)
        assert found[client] == pytest.approx(float(problem.scores.data_loss(theta, best, whole)), rel=1e-6)
