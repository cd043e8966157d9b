"""Small quadratic problems for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.interfaces.placement import Placement
from ppfl.problems._quadratic_problem import QuadraticProblem
from ppfl.problems.quadratic import QuadraticSettings
from tests import numpy_reference as reference

SMALL = {"clients": 5, "shared_dimension": 6, "local_dimension": 4, "rows": 20}


def settings(**fields):
    return QuadraticSettings.model_validate({"name": "quadratic", **fields})


def build(communicator=None, dtype=torch.float64, seed=0, **fields) -> QuadraticProblem:
    communicator = SoloCommunicator() if communicator is None else communicator
    placement = Placement(communicator, seed, seed, dtype, torch.device("cpu"))
    return settings(**fields).build(placement, 1)


def small(**fields) -> QuadraticProblem:
    return build(**{"generator": "comparison", "zeta": 1.0, **SMALL, **fields})


def from_clients(tmp_path: Path, clients, **fields) -> QuadraticProblem:
    return build(file=str(reference.write_clients(tmp_path / "problem.h5", clients)), **fields)


def random_point(problem: QuadraticProblem, seed: int = 0):
    """Return (shared, local) with random values under the names of the split."""
    draw = torch.Generator().manual_seed(seed)
    sides = problem.objective.init_shared(), problem.objective.init_local(0)
    return tuple(
        {name: torch.randn(value.shape, generator=draw, dtype=value.dtype) for name, value in side.items()}
        for side in sides
    )


def flat(params) -> np.ndarray:
    return np.concatenate([value.numpy().ravel() for value in params.values()] or [np.zeros(0)])
