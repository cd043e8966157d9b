"""Every aggregator, pre-aggregator and attack with the settings of its example, made fit for N vectors."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.interfaces.attack import AttackOnVectors
from ppfl.interfaces.pre_aggregator import RandomKey
from ppfl.rows.client_matrix import ClientMatrix
from tests import examples
from tests.ranks import client_matrix_of

torch.set_num_threads(1)

RULES, BEFORE, ATTACKS = (examples.names(folder) for folder in ("aggregators", "pre_aggregators", "attacks"))
ON_VECTORS = [name for name in ATTACKS if issubclass(examples.kind("attacks", name), AttackOnVectors)]


def most(num_vectors: int) -> int:
    """f: a tenth and a bit, below N/2."""
    return min((num_vectors - 1) // 2, 1 + num_vectors // 20)


def settings_for(name: str, num_vectors: int, folder: str = "aggregators") -> dict[str, Any]:
    """Return what it is called with; f, where it has one, is as large as N allows, up to `most`."""
    example = dict(examples.kind(folder, name).example)
    if "f" in example:
        sizes = range(most(num_vectors), 0, -1)
        fitting = (f for f in sizes if examples.make(folder, name, f=f).bound().fewest <= num_vectors)
        example["f"] = next(fitting, 0)
    return example


def step(name: str, num_vectors: int) -> dict[str, Any]:
    """Return an entry of `before` fit for N vectors."""
    return {"name": name, **settings_for(name, num_vectors, "pre_aggregators")}


def rule(name: str, num_vectors: int, before: str | None = None, **others: Any) -> Any:
    """Return an aggregator fit for N vectors, with or without something before it."""
    steps, left = [], num_vectors
    if before is not None:
        steps = [step(before, num_vectors)]
        left = examples.kind("pre_aggregators", before).model_validate(steps[0]).num_outputs(num_vectors)
    document = {"name": name, **settings_for(name, left), **others, "before": steps}
    return examples.kind("aggregators", name).model_validate(document)


def asks_for(name: str, look: str) -> bool:
    """Say whether a rule asks a client matrix for that, such as `gram`."""
    matrix = matrix_of(SoloCommunicator(), vectors(11, 8, "generic"))
    with mock.patch.object(matrix, look, wraps=getattr(matrix, look)) as asked:
        rule(name, 11)(matrix, RandomKey())
    return asked.called


def attack(name: str, **others: Any) -> Any:
    return examples.make("attacks", name, **others)


def matrix_of(communicator: Any, x: np.ndarray) -> ClientMatrix:
    """Give each rank its share of the rows."""
    first, last = (len(x) * rank // communicator.size for rank in (communicator.rank, communicator.rank + 1))
    return client_matrix_of(communicator, torch.from_numpy(x[first:last].copy()))


def aggregate(communicator: Any, chosen: Any, x: np.ndarray, key: RandomKey | None = None) -> np.ndarray:
    result: np.ndarray = chosen(matrix_of(communicator, x), key or RandomKey(3, 5)).numpy()
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
