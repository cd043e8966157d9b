"""What algorithms refuse, and how they say so."""

from __future__ import annotations

from typing import Any

import pytest

from ppfl.config.run import ConfigError
from ppfl.core.errors import UserError
from tests import examples
from tests.algorithms.cases import NAMES, sections, settings_of, splits_of
from tests.engine.build import engine


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [{"tau": 3}, {"lr": 0.0}, {"lr": -1.0}, {"lr": "large"}, {"lr": float("nan")}])
def test_wrong_keys_and_values(name: str, wrong: dict[str, Any]) -> None:
    valid = sections(name, "quadratic")
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        engine(**{**valid, "algorithm": {**valid["algorithm"], **wrong}})


COUNTS = {"local_steps", "epochs", "batch_size", "inner_steps"}
WITH_COUNTS = [(name, key) for name in NAMES for key in sorted(COUNTS & settings_of(name, "digits").keys())]


@pytest.mark.parametrize(("name", "key"), WITH_COUNTS)
def test_counts_are_positive_integers(name: str, key: str) -> None:
    valid = sections(name, "digits")
    for wrong in (0, -1, 1.5):
        with pytest.raises(ConfigError, match=key):
            engine(**{**valid, "algorithm": {**valid["algorithm"], key: wrong}})


TRAINING = [name for name in NAMES if "epochs" in settings_of(name, "digits")]
KNOW_CURVATURE = [name for name in NAMES if "theory" in settings_of(name, "quadratic").values()]


@pytest.mark.parametrize("name", TRAINING)
def test_steps_or_epochs(name: str) -> None:
    valid = sections(name, "digits")["algorithm"]
    without = {key: value for key, value in valid.items() if key != "epochs"}
    for wrong in (without, {**valid, "local_steps": 2}):
        with pytest.raises(ConfigError, match=r"local_steps|epochs"):
            engine(**{**sections(name, "digits"), "algorithm": wrong})


@pytest.mark.parametrize("name", TRAINING)
def test_mini_batches_need_samples(name: str) -> None:
    valid = sections(name, "quadratic")
    with pytest.raises(UserError, match=r"algorithm\.batch_size: 5 asks for mini-batches"):
        engine(**{**valid, "algorithm": {**valid["algorithm"], "batch_size": 5}})


@pytest.mark.parametrize("name", KNOW_CURVATURE)
def test_theory_needs_a_known_curvature(name: str) -> None:
    valid = sections(name, "digits")
    theory = {key: value for key, value in settings_of(name, "quadratic").items() if value == "theory"}
    with pytest.raises(UserError, match=r"algorithm\.\w+: 'theory' needs a problem that knows its curvature"):
        engine(**{**valid, "algorithm": {**valid["algorithm"], **theory}})


OUTPUT, INPUT = ["head.*"], ["hidden1.*"]
WRONG_SPLITS: dict[str, list[list[str]]] = {
    "any": [],
    "all shared": [OUTPUT, INPUT, ["*"]],
    "something local": [[]],
    "output side": [[], INPUT, ["*"], ["head.bias"], ["*.bias"]],
    "input side": [[], OUTPUT, ["*"], ["hidden1.weight"]],
}


@pytest.mark.parametrize(
    ("name", "local"), [(name, local) for name in NAMES for local in WRONG_SPLITS[splits_of(name)]]
)
def test_splits_that_do_not_fit(name: str, local: list[str]) -> None:
    valid = sections(name, "digits")
    instead = examples.kind("algorithms", name).instead
    remedy = f", or use {instead}" if instead else ""
    with pytest.raises(UserError, match=rf"^algorithm\.name: '{name}' .*problem\.split.*{remedy}$"):
        engine(**{**valid, "problem": {**valid["problem"], "split": {"local": local}}})


def test_a_split_is_refused_also_by_who_knows_no_other_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples.kind("algorithms", "fedavg"), "instead", "")
    valid = sections("fedavg", "digits")
    with pytest.raises(UserError, match=r"keeps head.weight, head.bias local; set problem\.split: {local: \[\]}$"):
        engine(**{**valid, "problem": {**valid["problem"], "split": {"local": OUTPUT}}})


@pytest.mark.parametrize("name", [name for name in NAMES if splits_of(name) == "any"])
@pytest.mark.parametrize("local", [[], ["*"], ["*.bias"], ["hidden1.*"]])
def test_others_take_any_split(name: str, local: list[str]) -> None:
    valid = sections(name, "digits", rounds=2)
    assert len(list(engine(**{**valid, "problem": {**valid["problem"], "split": {"local": local}}}))) == 2


@pytest.mark.parametrize("name", ["l2gd", "l2gd_theta", "local_only"])
@pytest.mark.parametrize("optimizer", [{"name": "momentum"}, {"name": "sgd", "lr": 0.5}])
def test_server_optimizers_that_have_no_use(name: str, optimizer: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"leave server_optimizer out"):
        engine(**sections(name, "quadratic", server_optimizer=optimizer))


def test_a_step_that_must_diverge_alone() -> None:
    valid = sections("local_only", "quadratic")
    with pytest.raises(UserError, match=r"algorithm\.lr: 50 must diverge: .* 2/max_m λ_max"):
        engine(**{**valid, "algorithm": {**valid["algorithm"], "lr": 50.0}})


@pytest.mark.parametrize("name", [name for name in KNOW_CURVATURE if settings_of(name, "quadratic")["lr"] == "theory"])
def test_a_large_step_is_warned_of_or_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    valid = sections(name, "quadratic")
    try:
        engine(**{**valid, "algorithm": {**valid["algorithm"], "lr": 1000.0}})
    except UserError as error:
        assert str(error).startswith("algorithm.lr: 1000 must diverge")  # noqa: PT017  (some methods warn)
    else:
        assert "algorithm.lr: 1000 is large" in caplog.text


@pytest.mark.parametrize(("key", "values"), {"probability": [0.0, 1.0], "penalty": [0.0, -1.0]}.items())
def test_l2gd(key: str, values: list[float]) -> None:
    valid = sections("l2gd", "quadratic")
    for value in values:
        with pytest.raises(ConfigError, match=key):
            engine(**{**valid, "algorithm": {**valid["algorithm"], key: value}})


@pytest.mark.parametrize(("key", "values"), {"mixing": [-0.1, 1.1], "mixing_lr": [-1.0]}.items())
def test_apfl(key: str, values: list[float]) -> None:
    valid = sections("apfl", "quadratic")
    for value in values:
        with pytest.raises(ConfigError, match=key):
            engine(**{**valid, "algorithm": {**valid["algorithm"], key: value}})
