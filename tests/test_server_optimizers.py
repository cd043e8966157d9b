"""Server optimizers against their formulas in NumPy, one step at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests import examples
from tests.crosscheck import servers
from tests.crosscheck.servers import direction_of
from tests.engine.build import COMPARISON, engine, ffgg

torch.set_num_threads(1)

NAMES = examples.names("server_optimizers")
ADAPTIVE = [name for name in NAMES if "tau" in examples.kind("server_optimizers", name).model_fields]
GRADIENTS = np.random.default_rng(0).standard_normal((6, 4)) * [1e-3, 1e-1, 1.0, 10.0]


def loop(name: str, gradients: np.ndarray) -> np.ndarray:
    """Return x after each gradient, from x = 0."""
    return -np.cumsum([*map(direction_of(**examples.section("server_optimizers", name)), gradients)], axis=0)


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(servers, name)])
def test_follows_the_loop_and_leaves_its_inputs(name: str) -> None:
    optimizer = examples.make("server_optimizers", name)
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


@pytest.mark.parametrize("name", NAMES)
def test_the_algorithms_step_scales_the_direction(name: str) -> None:
    optimizer = examples.make("server_optimizers", name)
    shared, gradient = {"a": torch.zeros(4).double()}, {"a": torch.from_numpy(GRADIENTS[0])}
    state = {"shared": shared, **optimizer.groups(optimizer.init(shared))}
    one, half = (optimizer.step(state, gradient, lr)["shared"]["a"] for lr in (1.0, 0.5))
    torch.testing.assert_close(half, one / 2)


@pytest.mark.parametrize("name", NAMES)
def test_minimizes(name: str) -> None:
    server = examples.section("server_optimizers", name, lr=0.05 if name in ADAPTIVE else 0.5)
    exact = {"name": "conjugate_gradient", "steps": 5}
    problem = {**COMPARISON, "clients": 3, "rows": 150, "targets": "common"}
    run = engine(problem=problem, algorithm=ffgg(exact, 0.3), server_optimizer=server, rounds=60)
    scores = list(run)
    assert float(scores[-1].metrics["loss"]) < 0.2 * float(scores[0].metrics["loss"])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *((name, {"lr": 0.0}) for name in NAMES),
        *((name, {"gamma": 1.0}) for name in NAMES),
        *((name, {key: 1.0}) for name in NAMES for key in examples.section("server_optimizers", name) if "beta" in key),
        *((name, {"tau": 0.0}) for name in ADAPTIVE),
    ],
)
def test_wrong_values(name: str, wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        examples.make("server_optimizers", name, **wrong)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_steps_have_no_default_size(name: str) -> None:
    with pytest.raises(ValidationError, match="lr"):
        examples.kind("server_optimizers", name).model_validate({"name": name})
