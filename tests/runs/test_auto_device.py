"""`device: auto`: a GPU, but the CPU for problems of statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config, validate
from ppfl.core.plugins import discover
from ppfl.engine.mapping.choose import choose_mapping
from ppfl.engine.mapping.laned import Laned
from ppfl.interfaces.client_data import Statistics
from ppfl.interfaces.placement import Placement
from ppfl.interfaces.problem import ProblemSettings
from ppfl.runs import device
from ppfl.runs.assemble import build

QUADRATIC = {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 3, "rows": 60}
DIGITS = {
    "name": "supervised",
    "dataset": {"name": "digits", "partition": {"name": "iid", "clients": 4}},
    "model": {"name": "mlp", "hidden": [16]},
    "split": {"local": ["head.*"]},
    "batch_size": 16,
}


def config(problem: dict[str, Any], chosen: str) -> Config:
    algorithm = {"name": "fedsim", "lr": 0.01, "local_steps": 2}
    document = {"name": "x", "rounds": 1, "problem": problem, "algorithm": algorithm, "engine": {"device": chosen}}
    return validate(document, Path(), "x")


@pytest.mark.parametrize(
    ("problem", "chosen", "device"),
    [
        (QUADRATIC, "auto", "cpu"), (QUADRATIC, "cpu", "cpu"), (QUADRATIC, "cuda", "cuda"),
        (DIGITS, "auto", "auto"), (DIGITS, "cpu", "cpu"), (DIGITS, "cuda", "cuda"),
    ],
)  # fmt: skip
def test_where_a_run_computes(problem: dict[str, Any], chosen: str, device: str) -> None:
    assert config(problem, chosen).device == device


def test_quadratics_keep_their_lanes_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    setup = build(config(QUADRATIC, "auto"), SoloCommunicator())
    assert setup.device.type == "cpu"
    assert isinstance(choose_mapping(setup), Laned)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert device.choose_device(config(DIGITS, "auto").device, SoloCommunicator()) == torch.device("cuda", 0)


@pytest.mark.parametrize("name", sorted(discover("ppfl.problems")))
def test_settings_say_what_the_built_problem_has(name: str) -> None:
    kind = discover("ppfl.problems")[name]
    settings = kind.model_validate({"name": name, **(kind.example or {"split": {"local": ["head.*"]}, **_of_digits()})})
    assert isinstance(settings, ProblemSettings)
    here = Placement(SoloCommunicator(), data_seed=0, seed=0, dtype=torch.float64, device=torch.device("cpu"))
    assert isinstance(settings.build(here, 1).client_data, Statistics) == settings.has_statistics


def _of_digits() -> dict[str, Any]:
    return {key: DIGITS[key] for key in ("dataset", "model", "batch_size")}
