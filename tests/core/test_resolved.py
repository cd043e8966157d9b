"""Fields that `resolve` fills in: part of a value, but no setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from ppfl.config.run import ConfigError, validate
from ppfl.core.content import content
from ppfl.core.plugins import PlugIn, Resolved
from tests.algorithms.cases import sections


class Damped(PlugIn):
    """With a constant."""

    name: Literal["damped"] = "damped"
    lr: float = 0.1
    kappa: Resolved[float] = 0.0


def test_they_are_told_apart_and_never_written() -> None:
    one, other = (Damped().model_copy(update={"kappa": kappa}) for kappa in (1.0, 2.0))
    assert one != other
    assert content(one) != content(other)
    assert one.model_dump() == other.model_dump() == {"name": "damped", "lr": 0.1}
    assert list(Damped.model_json_schema()["properties"]) == ["name", "lr"]


@pytest.mark.parametrize("given", [0.0, 1.0, None, "theory"])
def test_nobody_sets_them(given: Any) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Damped.model_validate({"kappa": given})


@pytest.mark.parametrize("key", ["seed", "move", "mean_stays"])
def test_a_configuration_that_names_one_is_refused_in_one_line(key: str) -> None:
    document = {"name": "x", **sections("l2gd", "quadratic")}
    document["algorithm"] = {**document["algorithm"], key: 0}
    with pytest.raises(ConfigError) as caught:
        validate(document, Path(), "x.yaml")
    assert caught.value.lines == (
        f"x.yaml: algorithm.{key}: unknown key (given 0); allowed: lr, name, penalty, probability",
    )
