"""Sensible arguments for every aggregator, pre-aggregator and attack: a new plug-in needs a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ppfl.core.client_matrix import ClientMatrix
from ppfl.core.plugins import discover
from ppfl.core.pre_aggregator import Moment
from tests.ranks import client_matrix_of

torch.set_num_threads(1)

Arguments = dict[str, Any]


def most(num_vectors: int) -> int:
    """f: a tenth and a bit, below N/2."""
    return min((num_vectors - 1) // 2, 1 + num_vectors // 20)


def most_of_krum(num_vectors: int) -> int:
    return max(min((num_vectors - 3) // 2, most(num_vectors)), 0)


RULES: dict[str, Callable[[int], Arguments]] = {
    "caf": lambda n: {"f": most(n)},
    "centered_clipping": lambda n: {"radius": 1.5, "steps": 4},
    "geometric_median": lambda n: {},
    "krum": lambda n: {"f": most_of_krum(n)},
    "mda": lambda n: {"f": most(n)},
    "mean": lambda n: {},
    "meamed": lambda n: {"f": most(n)},
    "median": lambda n: {},
    "monna": lambda n: {"f": most(n)},
    "multi_krum": lambda n: {"f": most_of_krum(n)},
    "trimmed_mean": lambda n: {"f": most(n)},
}
BEFORE: dict[str, Callable[[int], Arguments]] = {
    "arc": lambda n: {"f": most(n)},
    "bucketing": lambda n: {"size": 2},
    "clipping": lambda n: {"threshold": 2.5},
    "nnm": lambda n: {"f": most(n)},
}
ATTACKS: dict[str, Arguments] = {
    "gaussian": {"standard_deviation": 3.0},
    "inf": {},
    "inner_product": {"factor": 0.5},
    "label_flip": {},
    "little_is_enough": {},
    "mimic": {"client": 1},
    "sign_flip": {"factor": 4.0},
}


def rule(name: str, num_vectors: int, before: str | None = None, **arguments: Any) -> Any:
    """Return an aggregator fit for N vectors, with or without something before it."""
    steps, left = [], num_vectors
    if before is not None:
        steps = [{"name": before, **BEFORE[before](num_vectors)}]
        left = discover("ppfl.pre_aggregators")[before].model_validate(steps[0]).num_outputs(num_vectors)
    document = {"name": name, **RULES[name](left), **arguments, "before": steps}
    return discover("ppfl.aggregators")[name].model_validate(document)


def attack(name: str, **arguments: Any) -> Any:
    return discover("ppfl.attacks")[name].model_validate({"name": name, **ATTACKS[name], **arguments})


def matrix_of(communicator: Any, x: np.ndarray) -> ClientMatrix:
    """Give each rank its share of the rows."""
    first, last = (len(x) * rank // communicator.size for rank in (communicator.rank, communicator.rank + 1))
    return client_matrix_of(communicator, torch.from_numpy(x[first:last].copy()))


def aggregate(communicator: Any, chosen: Any, x: np.ndarray, moment: Moment | None = None) -> np.ndarray:
    result: np.ndarray = chosen(matrix_of(communicator, x), moment or Moment(3, 5)).numpy()
    return result


def vectors(num_vectors: int, dimension: int, kind: str, seed: int = 0) -> np.ndarray:
    """Return float32 rows: generic ones, or small integers with repeated rows, full of ties."""
    draw = np.random.default_rng([num_vectors, dimension, seed])
    if kind == "ties":
        x = draw.integers(-2, 3, (num_vectors, dimension))
        x[num_vectors // 2] = x[0]
        x[-1] = x[num_vectors // 3]
        return x.astype(np.float32)
    x = draw.standard_normal((num_vectors, dimension))
    x[1] += 5.0
    return x.astype(np.float32)
