"""Small classification problems for tests: models, splits and what they are built with."""

from __future__ import annotations

from typing import Any

import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.core.plugins import discover
from ppfl.core.types import Params
from ppfl.interfaces.placement import Placement
from ppfl.interfaces.problem import ProblemSettings
from ppfl.problems._supervised_problem import SupervisedProblem

torch.set_num_threads(1)

CONFIG: dict[str, Any] = {
    "name": "supervised",
    "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 6, "alpha": 0.5}},
    "model": {"name": "mlp", "hidden": [12, 7]},
    "split": {"local": ["head.*"]},
    "batch_size": 20,
}
PROBLEMS: list[dict[str, Any]] = [{"name": "supervised"}, {"name": "least_squares", "ridge": 0.05}]
CNN: dict[str, Any] = {
    "name": "cnn", "kernel_size": 3, "padding": 1, "channels": [2, 4], "hidden": 6, "normalization": "group",
    "groups": 2,
}  # fmt: skip


def make(
    keys: dict[str, Any] | None = None, *, seed: int = 0, communicator: Communicator | None = None,
    dtype: torch.dtype = torch.float64, body_dtype: torch.dtype | None = None,
) -> SupervisedProblem:  # fmt: skip
    document = {**CONFIG, **(keys or {})}
    settings = discover("ppfl.problems")[document["name"]].model_validate(document)
    assert isinstance(settings, ProblemSettings)
    placement = Placement(communicator or SoloCommunicator(), seed, seed, dtype, torch.device("cpu"), None, body_dtype)
    problem = settings.build(placement, 1)
    assert isinstance(problem, SupervisedProblem)
    return problem


def close(one: Params, other: Params) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-12, atol=1e-13)


def suffixes(settings: dict[str, Any]) -> list[list[str]]:
    stages = ["hidden1", "hidden2", "head"]
    if settings["name"] == "cnn":
        stages = ["conv1", "norm1", "conv2", "norm2", "hidden", "head"]
    return [[f"{stage}.*" for stage in stages[k:]] for k in range(1, len(stages))]


SPLITS = [(model, local) for model in (CONFIG["model"], CNN) for local in [*suffixes(model), ["*"], []]]
INNER_SPLITS = [
    (CONFIG["model"], ["head.bias"]),
    (CONFIG["model"], ["hidden1.*"]),
    (CONFIG["model"], ["hidden2.weight", "head.bias"]),
    (CNN, ["norm*"]),
]
