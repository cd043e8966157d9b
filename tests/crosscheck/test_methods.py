"""Every method through `ppfl run` against plain NumPy: θ, w, scores and costs of every round, to 1e-12."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests import examples
from tests.algorithms.cases import is_gossip
from tests.crosscheck import methods
from tests.crosscheck.nodes import RING
from tests.crosscheck.runs import FULL, SAMPLED, compare, compare_stage, document, near, run, world_of
from tests.crosscheck.tuners import num_gradients, tune

pytestmark = pytest.mark.slow

WITH_FORMULA = [name for name in examples.names("algorithms") if hasattr(methods, name)]
LOCAL = {
    "any": ("nothing", "head", "hidden1"), "all shared": ("nothing",), "something local": ("head", "hidden1"),
    "output side": ("head",), "input side": ("hidden1",),
}  # fmt: skip
"""What may be local, by the splits that a method is made for."""
EACH = [(name, local) for name in WITH_FORMULA for local in LOCAL[examples.kind("algorithms", name).splits]]

WHO = {"full": FULL, "weighted-and-sampled": SAMPLED}


def test_every_method_that_comes_with_ppfl_has_a_formula() -> None:
    missing = examples.names_of_files("algorithms") - set(WITH_FORMULA)
    assert not missing, f"write {', '.join(missing)} in tests/crosscheck/methods.py"


def example(name: str) -> dict[str, Any]:
    """Return the settings of the example; w is tuned from where it was."""
    settings = dict(examples.kind("algorithms", name).example)
    if "fine_tuner" in settings:
        settings["fine_tuner"] = {**settings["fine_tuner"], "start": "warm"}
    return settings


@pytest.mark.parametrize(
    ("name", "local", "who"), [(*each, who) for each in EACH for who in (("full",) if is_gossip(each[0]) else WHO)]
)
def test_a_method_is_its_formula(name: str, local: str, who: str, tmp_path: Path) -> None:
    settings = example(name)
    graph = {"gossip": RING} if is_gossip(name) else {}
    config = document(tmp_path, local, {"name": name, **settings}, **WHO[who], **graph)
    world = world_of(config)
    ran = run(tmp_path, config)
    last = compare(ran, world, getattr(methods, name)(world, **settings))
    tuner = settings.get("fine_tuner")
    assert ("tuned_test_loss" in ran.result.clients) == (tuner is not None and local != "nothing")
    if tuner is not None and local != "nothing":  # two epochs of all samples at once
        models = [(theta, tune(world.f, m, theta, w, **tuner)) for m, (theta, w) in enumerate(last.deployed)]
        models = [(theta, tune(world.f, m, theta, w, **tuner)) for m, (theta, w) in enumerate(models)]
        compare_stage(ran, world, "tuned", models)
        tuned = ran.result.stages.sel(stage="tuned")
        near("gradients of the stage", tuned.local_gradients.to_numpy(), 2 * len(models) * num_gradients(tuner))


def test_the_coins_show_averagings_in_a_row_and_after_a_gradient(tmp_path: Path) -> None:
    """So that what L2GD sends is seen in both cases."""
    world = world_of(document(tmp_path, "nothing", {"name": "l2gd", **example("l2gd")}))
    coins = [world.averages(k) for k in range(len(world.cohorts))]
    assert not coins[0]
    assert any(one and other for one, other in pairwise(coins))
    assert sum(coins) < len(coins) - 1
