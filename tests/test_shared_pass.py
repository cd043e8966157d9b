"""Gradients by one pass through the shared stages: those of the loss itself, whatever the split and the pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppfl.algorithms.ffgg import FFGG
from ppfl.core.params import add_scaled
from ppfl.core.types import Params
from ppfl.networks import pieces
from ppfl.networks.network import Network
from ppfl.networks.pieces import Pieces
from ppfl.problems._supervised_problem import SupervisedProblem
from tests.supervised_problems import CNN, CONFIG, INNER_SPLITS, PROBLEMS, SPLITS, close, make


def reference(problem: SupervisedProblem, shared: Params, local: Params, data: dict[str, torch.Tensor]) -> list[Params]:
    """Differentiate the loss of the whole model, all samples at once."""
    return list(torch.func.grad(lambda theta, w: problem.objective.loss(theta, w, data), argnums=(0, 1))(shared, local))


@pytest.mark.parametrize("name", PROBLEMS, ids=str)
@pytest.mark.parametrize("limits", [(128, 1 << 30), (7, 1 << 30), (7, 0), (7, 1)], ids=str)
@pytest.mark.parametrize(("model", "local_globs"), SPLITS + INNER_SPLITS, ids=str)
def test_gradients_are_those_of_the_loss(
    model: dict[str, Any], local_globs: list[str], limits: tuple[int, int], name: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(pieces, "CPU", Pieces(*limits))
    problem = make({**name, "model": model, "split": {"local": local_globs}})
    shared, local, data = (
        problem.objective.init_shared(),
        problem.objective.redraw_local(1, 3),
        problem.client_data.data(1, 0),
    )
    of_shared, of_local = reference(problem, shared, local, data)
    once = problem.objective.shared_pass(shared, data)
    close(problem.objective.local_gradient(shared, local, once.data), of_local)
    close(once.shared_gradient(local), of_shared)
    close(problem.objective.local_gradient(shared, local, data), of_local)
    close(problem.objective.shared_gradient(shared, local, data), of_shared)
    for found, wanted in zip(problem.objective.gradients(shared, local, data), (of_shared, of_local), strict=True):
        close(found, wanted)


@pytest.mark.parametrize("local_globs", [["head.*"], ["hidden.*", "head.*"], []], ids=str)
def test_pieces_whose_graph_is_not_kept_give_the_same_bits(
    local_globs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make({"model": CNN, "split": {"local": local_globs}}, dtype=torch.float32)
    shared, local, data = (
        problem.objective.init_shared(),
        problem.objective.redraw_local(1, 3),
        problem.client_data.data(1, 0),
    )
    monkeypatch.setattr(pieces, "CPU", Pieces(7, 1 << 30))
    wanted = problem.objective.shared_gradient(shared, local, data)
    monkeypatch.setattr(pieces, "CPU", Pieces(7, 0))
    found = problem.objective.shared_gradient(shared, local, data)
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


@pytest.mark.parametrize("name", PROBLEMS, ids=str)
@pytest.mark.parametrize("local_globs", [["head.*"], ["hidden2.*", "head.*"], ["head.bias"], []], ids=str)
def test_vectorized_over_clients_and_with_weights(
    local_globs: list[str], name: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "CPU", Pieces(7, 1 << 30))
    problem = make({**name, "model": CONFIG["model"], "split": {"local": local_globs}})
    shared, local, data = (
        problem.objective.init_shared(),
        problem.objective.redraw_local(1, 3),
        problem.client_data.data(1, 0),
    )
    data["weight"] = (torch.arange(len(data["y"])) % 3).to(torch.float64)
    stacked = {name: torch.stack([value, value]) for name, value in data.items()}
    both = torch.func.vmap(lambda one: problem.objective.gradients(shared, local, one))(stacked)
    for found, wanted in zip(both, reference(problem, shared, local, data), strict=True):
        for row in range(2):
            close({name: value[row] for name, value in found.items()}, wanted)


def test_graphs_are_kept_within_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make({"model": CNN, "split": {"local": ["head.*"]}})
    shared, data = problem.objective.init_shared(), problem.client_data.data(1, 0)
    size_of_piece = 5 * 64 * 2 * 8  # what the first convolution makes of five images of 8 × 8, in float64
    monkeypatch.setattr(pieces, "CPU", Pieces(5, size_of_piece + 1))
    once = problem.objective.shared_pass(shared, data)
    assert len(data["y"]) == 20
    assert size_of_piece < once._kept_bytes < 40 * size_of_piece
    assert len(once._pulls) == 1
    monkeypatch.setattr(pieces, "CPU", Pieces(5, 1 << 30))
    assert len(problem.objective.shared_pass(shared, data)._pulls) == 4


@pytest.mark.parametrize("local_globs", [["head.*"], ["hidden.*", "head.*"], []], ids=str)
def test_bodies_in_bfloat16(local_globs: list[str]) -> None:
    keys = {"model": {**CNN, "normalization": "none"}, "split": {"local": local_globs}}
    exact = make(keys, dtype=torch.float32)
    short = make(keys, dtype=torch.float32, body_dtype=torch.bfloat16)
    shared, local, data = (
        exact.objective.init_shared(),
        exact.objective.redraw_local(1, 3),
        exact.client_data.data(1, 0),
    )
    once = short.objective.shared_pass(shared, data)
    assert once.data["features"].dtype == torch.float32
    found = {
        **dict(zip("sl", short.objective.gradients(shared, local, data), strict=True)),
        "once": once.shared_gradient(local),
    }
    wanted = dict(zip("sl", exact.objective.gradients(shared, local, data), strict=True))
    for part in "sl":
        for name, value in wanted[part].items():
            assert found[part][name].dtype == torch.float32
            error = (found[part][name] - value).norm() / value.norm()
            assert 0 < error < 0.05, (part, name)
    assert all(torch.equal(value, found["s"][name]) for name, value in found["once"].items())
    features = exact.objective.advance(shared, data)  # the last stage is in float32
    if local_globs == ["head.*"]:
        close(
            short.objective.local_gradient(shared, local, features),
            exact.objective.local_gradient(shared, local, features),
        )


@pytest.mark.parametrize(
    ("model", "local_globs", "on_logits"),
    [
        ({"name": "mlp", "hidden": [60]}, ["head.*"], True),
        ({"name": "mlp", "hidden": [60]}, ["head.weight"], False),
        ({"name": "mlp", "hidden": [9, 60]}, ["hidden2.*", "head.*"], False),
        ({"name": "mlp", "hidden": [2]}, ["head.*"], False),
        ({"name": "logistic_regression"}, ["*"], True),
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", PROBLEMS, ids=str)
def test_descent_is_that_of_the_gradients(
    model: dict[str, Any], local_globs: list[str], on_logits: bool, weighted: bool, name: dict[str, Any]
) -> None:
    problem = make({**name, "model": model, "split": {"local": local_globs}})
    shared, local, data = (
        problem.objective.init_shared(),
        problem.objective.redraw_local(1, 3),
        problem.client_data.data(1, 0),
    )
    if weighted:
        data["weight"] = (torch.arange(len(data["y"])) % 3).to(torch.float64)
    advanced = problem.objective.advance(shared, data)
    ridge = name.get("ridge", 0.0)
    found = problem.objective._network.descend_on_logits({**shared, **local}, advanced, local, 0.1, 7, ridge)
    assert (found is not None) == on_logits
    wanted = local
    for _ in range(7):
        wanted = add_scaled(wanted, problem.objective.local_gradient(shared, wanted, data), -0.1)
    assert max(float((wanted[name] - local[name]).abs().max()) for name in local) > 0.01
    for given in (data, advanced):
        close(problem.objective.descend(shared, local, given, 0.1, 7), wanted)
    vectorized = torch.func.vmap(lambda w: problem.objective.descend(shared, w, advanced, 0.1, 7))(
        {name: torch.stack([value, 2 * value]) for name, value in local.items()}
    )
    close({name: value[0] for name, value in vectorized.items()}, wanted)


def test_ffgg_runs_the_body_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make({"model": CNN, "split": {"local": ["head.*"]}})
    shared, local, data = (
        problem.objective.init_shared(),
        problem.objective.init_local(1),
        problem.client_data.data(1, 0),
    )
    ffgg = FFGG.model_validate(
        {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 3, "lr": 0.1}}
    )
    runs = []
    prefix = Network.prefix

    def counted(network: Network, params: Params, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        runs.append(len(x))
        return prefix(network, params, x, *rest)

    monkeypatch.setattr(Network, "prefix", counted)
    ffgg.client(problem.objective, shared, {"local": local}, data, ffgg.draws(problem.objective, 1, 0, len(data["y"])))
    assert runs == [len(data["y"])]
