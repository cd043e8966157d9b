"""The classification problem: losses and gradients over every split."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.core.types import Data, Params
from tests.supervised_problems import CNN, CONFIG, INNER_SPLITS, PROBLEMS, SPLITS, close, make

torch.set_num_threads(1)


@pytest.mark.parametrize(("model", "local_globs"), SPLITS + INNER_SPLITS, ids=str)
def test_advanced_data_has_the_same_loss_and_gradients(model: dict[str, Any], local_globs: list[str]) -> None:
    problem = make({"model": model, "split": {"local": local_globs}})
    whole = make({"model": model, "split": {"local": []}})
    shared, local = problem.objective.init_shared(), problem.objective.redraw_local(1, 3)
    data = problem.client_data.data(1, 0)
    advanced = problem.objective.advance(shared, data)
    loss = problem.objective.loss(shared, local, data)
    everything = {name: {**shared, **local}[name] for name in whole.objective.init_shared()}
    assert float(whole.objective.loss(everything, {}, data)) == float(loss)
    torch.testing.assert_close(problem.objective.loss(shared, local, advanced), loss, rtol=1e-12, atol=0)
    close(
        problem.objective.local_gradient(shared, local, advanced), problem.objective.local_gradient(shared, local, data)
    )
    close(
        problem.objective.shared_gradient(shared, local, data) | problem.objective.local_gradient(shared, local, data),
        {
            name: whole.objective.shared_gradient(everything, {}, data)[name]
            for name in [*problem.objective.init_shared(), *problem.objective.init_local(1)]
        },
    )
    assert problem.objective.advance(shared, advanced).keys() == advanced.keys()


def test_features_stop_before_the_first_stage_with_a_local_parameter() -> None:
    def features(local: list[str]) -> tuple[int, ...]:
        problem = make({"split": {"local": local}})
        advanced = problem.objective.advance(problem.objective.init_shared(), problem.client_data.data(0, 0))
        assert "x" not in advanced
        return tuple(advanced["features"].shape[1:])

    assert features(["head.bias"]) == (7,)
    assert features(["hidden2.weight", "head.*"]) == (12,)
    assert features(["hidden1.bias"]) == (1, 8, 8)
    assert features([]) == (10,)


def test_prefix_is_evaluated_once() -> None:
    problem = make()
    shared, local = problem.objective.init_shared(), problem.objective.init_local(0)
    advanced = problem.objective.advance(shared, problem.client_data.data(0, 0))
    without_body = {name: value * math.nan for name, value in shared.items()}
    assert math.isfinite(float(problem.objective.loss(without_body, local, advanced)))


def test_loss_is_the_mean_cross_entropy() -> None:
    problem = make({"model": {"name": "logistic_regression"}, "split": {"local": ["head.bias"]}})
    shared, local = problem.objective.init_shared(), problem.objective.init_local(0)
    data = problem.client_data.data(0, 0)
    logits = data["x"].flatten(1).numpy() @ shared["head.weight"].numpy().T + local["head.bias"].numpy()
    own = logits[np.arange(len(logits)), data["y"].numpy()]
    assert float(problem.objective.loss(shared, local, data)) == pytest.approx(
        float(np.mean(np.log(np.exp(logits).sum(axis=1)) - own)), rel=1e-12
    )


@pytest.mark.parametrize("model", [CONFIG["model"], CNN, {"name": "logistic_regression"}], ids=str)
@pytest.mark.parametrize("name", PROBLEMS, ids=str)
def test_padded_rows_do_not_count(model: dict[str, Any], name: dict[str, Any]) -> None:
    problem = make({**name, "model": model, "split": {"local": ["head.bias"]}})
    shared, local = problem.objective.init_shared(), problem.objective.init_local(0)
    data = problem.client_data.data(0, 0)
    num_samples = len(data["y"])
    padded = {name: torch.cat([value, value.new_zeros(5, *value.shape[1:])]) for name, value in data.items()}
    padded["weight"] = torch.cat([torch.ones(num_samples), torch.zeros(5)]).double()
    for advance in (False, True):
        one, other = (problem.objective.advance(shared, d) if advance else d for d in (data, padded))
        torch.testing.assert_close(
            problem.objective.loss(shared, local, other), problem.objective.loss(shared, local, one), rtol=1e-12, atol=0
        )
        close(
            problem.objective.local_gradient(shared, local, other), problem.objective.local_gradient(shared, local, one)
        )
    close(
        problem.objective.shared_gradient(shared, local, padded), problem.objective.shared_gradient(shared, local, data)
    )


@pytest.mark.parametrize("model", [CONFIG["model"], CNN], ids=str)
def test_vectorized_over_clients_equals_a_loop(model: dict[str, Any]) -> None:
    problem = make({"model": model, "batch_size": 9})
    shared = problem.objective.init_shared()
    clients = [(problem.objective.redraw_local(m, 0), problem.client_data.data(m, 0)) for m in range(3)]

    def both(local: Params, data: Data) -> tuple[Params, Params]:
        advanced = problem.objective.advance(shared, data)
        gradient = problem.objective.local_gradient(shared, local, advanced)
        local = {name: value - 0.1 * gradient[name] for name, value in local.items()}
        return problem.objective.shared_gradient(shared, local, data), local

    stacked_local = {name: torch.stack([w[name] for w, _ in clients]) for name in clients[0][0]}
    stacked_data = {name: torch.stack([d[name] for _, d in clients]) for name in clients[0][1]}
    together = torch.func.vmap(both)(stacked_local, stacked_data)
    for row, (local, data) in enumerate(clients):
        for group, alone in zip(together, both(local, data), strict=True):
            for name, value in alone.items():
                torch.testing.assert_close(group[name][row], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", PROBLEMS, ids=str)
@pytest.mark.parametrize(("model", "local_globs"), [(CONFIG["model"], ["head.*"]), (CNN, ["conv2.*", "head.*"])])
def test_hessian_product_agrees_with_differences_of_gradients(
    model: dict[str, Any], local_globs: list[str], name: dict[str, Any]
) -> None:
    problem = make({**name, "model": model, "split": {"local": local_globs}})
    shared, local, direction = (
        problem.objective.init_shared(),
        problem.objective.init_local(0),
        problem.objective.redraw_local(0, 0),
    )
    data = problem.objective.advance(shared, problem.client_data.data(0, 0))
    product = problem.objective.local_hessian_product(shared, local, direction, data)
    forth, back = (
        problem.objective.local_gradient(shared, {n: v + sign * 1e-6 * direction[n] for n, v in local.items()}, data)
        for sign in (1, -1)
    )
    for name, value in product.items():
        torch.testing.assert_close((forth[name] - back[name]) / 2e-6, value, rtol=1e-5, atol=1e-7)
