"""Methods for one side of the model look at layers with something to train."""

from __future__ import annotations

from typing import Any

import pytest

from ppfl.core.errors import UserError
from tests.engine.build import engine
from tests.supervised_problems import CONFIG

TUNER = {"name": "gradient_descent", "steps": 1, "lr": 0.1}


def built(name: str, split: dict[str, Any]) -> None:
    more = {"fine_tuner": TUNER} if name == "fedrep" else {}
    engine(problem={**CONFIG, "split": split}, algorithm={"name": name, "lr": 0.1, "local_steps": 1, **more})


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("fedrep", {"local": ["head.*"], "frozen": ["hidden1.*"]}),
        ("fedrep", {"local": ["hidden2.*"], "frozen": ["head.*"]}),
        ("lg_fedavg", {"local": ["hidden2.*"], "frozen": ["hidden1.*"]}),
        ("fedavg", {"local": [], "frozen": ["hidden1.*"]}),
    ],
    ids=str,
)
def test_allowed(name: str, split: dict[str, Any]) -> None:
    built(name, split)


@pytest.mark.parametrize(
    ("name", "split", "says"),
    [
        ("fedrep", {"local": ["head.*"], "frozen": ["hidden*"]}, "not frozen are head,"),
        ("lg_fedavg", {"local": ["hidden2.*"], "frozen": ["head.*"]}, "not frozen are hidden1, hidden2,"),
        ("fedavg", {"local": ["head.*"], "frozen": ["hidden1.*"]}, "shares every parameter"),
    ],
    ids=str,
)
def test_refused(name: str, split: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        built(name, split)
    assert says in str(caught.value)
