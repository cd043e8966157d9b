"""Server optimizers against their formulas in NumPy, one step at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ppfl.core.plugins import discover
from tests.crosscheck.servers import direction_of
from tests.engine.build import COMPARISON, engine, ffgg

torch.set_num_threads(1)

FOUND = discover("ppfl.server_optimizers")
SETTINGS: dict[str, dict[str, Any]] = {
    "adagrad": {"lr": 0.3, "beta1": 0.2, "tau": 0.01},
    "adam": {"lr": 0.3, "beta1": 0.8, "beta2": 0.95, "tau": 0.01},
    "momentum": {"lr": 0.3, "beta": 0.7},
    "sgd": {"lr": 0.3},
    "yogi": {"lr": 0.3, "beta1": 0.8, "beta2": 0.95, "tau": 0.01},
}
GRADIENTS = np.random.default_rng(0).standard_normal((6, 4)) * [1e-3, 1e-1, 1.0, 10.0]


def loop(name: str, gradients: np.ndarray) -> np.ndarray:
    """Return x after each gradient, from x = 0."""
    return -np.cumsum([*map(direction_of(name, **SETTINGS[name]), gradients)], axis=0)


def test_every_server_optimizer_is_tested() -> None:
    assert SETTINGS.keys() == FOUND.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_follows_the_loop_and_leaves_its_inputs(name: str) -> None:
    optimizer = FOUND[name].model_validate({"name": name, **SETTINGS[name]})
    shared = {"a": torch.zeros(1, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}
    state = {"shared": shared, **optimizer.groups(optimizer.init(shared)), "other": {"c": torch.ones(1)}}
    for g, wanted in zip(GRADIENTS, loop(name, GRADIENTS), strict=True):
        gradient = {"a": torch.from_numpy(g[:1].copy()), "b": torch.from_numpy(g[1:].copy())}
        before = {group: {key: value.clone() for key, value in params.items()} for group, params in state.items()}
        new = optimizer.step(state, gradient, 1.0)
        assert all(torch.equal(state[group][key], value) for group in before for key, value in before[group].items())
        assert new.keys() == state.keys()
        np.testing.assert_allclose(np.concatenate([v.numpy() for v in new["shared"].values()]), wanted, rtol=1e-12)
        state = new


@pytest.mark.parametrize("name", SETTINGS)
def test_the_algorithms_step_scales_the_direction(name: str) -> None:
    optimizer = FOUND[name].model_validate({"name": name, **SETTINGS[name]})
    shared, gradient = {"a": torch.zeros(4).double()}, {"a": torch.from_numpy(GRADIENTS[0])}
    state = {"shared": shared, **optimizer.groups(optimizer.init(shared))}
    one, half = (optimizer.step(state, gradient, lr)["shared"]["a"] for lr in (1.0, 0.5))
    torch.testing.assert_close(half, one / 2)


@pytest.mark.parametrize("name", SETTINGS)
def test_minimizes(name: str) -> None:
    settings = {**SETTINGS[name], "lr": 0.05 if name in ("adagrad", "adam", "yogi") else 0.5}
    exact = {"name": "conjugate_gradient", "steps": 5}
    problem = {**COMPARISON, "clients": 3, "rows": 150, "targets": "common"}
    run = engine(problem=problem, algorithm=ffgg(exact, 0.3), server_optimizer={"name": name, **settings}, rounds=60)
    scores = list(run)
    assert float(scores[-1].metrics["loss"]) < 0.2 * float(scores[0].metrics["loss"])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *((name, {"lr": 0.0}) for name in SETTINGS),
        *((name, {"gamma": 1.0}) for name in SETTINGS),
        *((name, {key: 1.0}) for name in SETTINGS for key in SETTINGS[name] if key.startswith("beta")),
        *((name, {"tau": 0.0}) for name in ("adagrad", "adam", "yogi")),
    ],
)
def test_wrong_values(name: str, wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        FOUND[name].model_validate({"name": name, **SETTINGS[name], **wrong})


@pytest.mark.parametrize("name", ["adagrad", "adam", "yogi"])
def test_adaptive_steps_have_no_default_size(name: str) -> None:
    with pytest.raises(ValidationError, match="lr"):
        FOUND[name].model_validate({"name": name})
