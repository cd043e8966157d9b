"""Every method through `ppfl run` against plain NumPy: θ, w, scores and costs of every round, to 1e-12."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ppfl.core.plugins import discover
from tests.crosscheck.methods import METHODS
from tests.crosscheck.runs import FULL, SAMPLED, compare, compare_stage, document, near, run, world_of
from tests.crosscheck.tuners import num_gradients, tune

_GD: dict[str, Any] = {"name": "gradient_descent", "steps": 2, "lr": 0.3}
_ADAM: dict[str, Any] = {"name": "adam", "lr": 0.05, "batch_size": "all", "beta1": 0.8, "beta2": 0.9, "epsilon": 0.01}
_COIN: dict[str, Any] = {"lr": 1.5, "penalty": 0.7, "probability": 0.6}
_STEPS: dict[str, Any] = {"lr": 0.2, "local_steps": 3}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "apfl": ("nothing", {**_STEPS, "mixing": 0.4, "mixing_lr": 0.3}),
    "ditto": ("nothing", {**_STEPS, "penalty": 0.4}),
    "fedalt": ("head", {**_STEPS, "fine_tuner": _ADAM}),
    "fedavg": ("nothing", _STEPS),
    "fedbabu": ("head", {**_STEPS, "fine_tuner": _GD}),
    "fedper": ("head", _STEPS),
    "fedprox": ("nothing", {**_STEPS, "penalty": 0.4}),
    "fedrep": ("head", {**_STEPS, "fine_tuner": _GD}),
    "fedsim": ("hidden1", _STEPS),
    "ffgg": ("head", {"lr": 0.2, "fine_tuner": _GD}),
    "l2gd": ("nothing", _COIN),
    "l2gd_theta": ("head", _COIN),
    "lg_fedavg": ("hidden1", _STEPS),
    "local_ffgg": ("hidden1", {**_STEPS, "fine_tuner": _GD}),
    "local_gd": ("nothing", _STEPS),
    "local_only": ("head", _STEPS),
    "pfedme": ("nothing", {**_STEPS, "penalty": 1.2, "inner_lr": 0.15, "inner_steps": 2}),
    "scaffold": ("nothing", _STEPS),
    "scaffold_theta": ("head", _STEPS),
}
"""{name: (what is local, settings)}."""


@pytest.mark.parametrize("who", [FULL, SAMPLED], ids=["full", "weighted-and-sampled"])
@pytest.mark.parametrize("name", sorted(discover("ppfl.algorithms")))
def test_a_method_is_its_formula(name: str, who: dict[str, Any], tmp_path: Path) -> None:
    split, settings = SETTINGS[name]
    config = document(tmp_path, split, {"name": name, **settings}, **who)
    world = world_of(config)
    ran = run(tmp_path, config)
    last = compare(ran, world, METHODS[name](world, **settings))
    tuner = settings.get("fine_tuner")
    assert ("tuned_test_loss" in ran.result.clients) == (tuner is not None)
    if tuner is not None:  # two epochs of all samples at once
        models = [(theta, tune(world.f, m, theta, w, **tuner)) for m, (theta, w) in enumerate(last.deployed)]
        models = [(theta, tune(world.f, m, theta, w, **tuner)) for m, (theta, w) in enumerate(models)]
        compare_stage(ran, world, "tuned", models)
        tuned = ran.result.stages.sel(stage="tuned")
        near("gradients of the stage", tuned.local_gradients.to_numpy(), 2 * len(models) * num_gradients(tuner))


def test_the_coins_show_averagings_in_a_row_and_after_a_gradient(tmp_path: Path) -> None:
    """So that what L2GD sends is seen in both cases."""
    world = world_of(document(tmp_path, "nothing", {"name": "l2gd", **_COIN}))
    coins = [world.averages(k) for k in range(len(world.cohorts))]
    assert not coins[0]
    assert any(one and other for one, other in pairwise(coins))
    assert sum(coins) < len(coins) - 1
