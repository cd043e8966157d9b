"""Runs for tests, straight from configuration documents, without files and without MPI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config, validate
from ppfl.engine.ledger import Scored
from ppfl.engine.synchronous import Synchronous
from ppfl.runs.assemble import build

if TYPE_CHECKING:
    from ppfl.core.communicator import Communicator

torch.set_num_threads(1)

COMPARISON: dict[str, Any] = {"name": "quadratic", "generator": "comparison", "zeta": 0}
SLIM: dict[str, Any] = {**COMPARISON, "rows": 200, "shared_dimension": 20, "local_dimension": 10}
"""The same in a fifth of the coordinates, where whatever converges does so in about a fifth of the rounds."""
EXACT: dict[str, Any] = {"name": "exact"}


def ffgg(fine_tuner: dict[str, Any], lr: float | str = "theory") -> dict[str, Any]:
    """Return an `algorithm:` section."""
    return {"name": "ffgg", "lr": lr, "fine_tuner": fine_tuner}


def config(**sections: Any) -> Config:
    """Return a float64 configuration of the comparison problem with some sections replaced."""
    document = {
        "name": "test",
        "rounds": 20,
        "precision": "float64",
        "problem": COMPARISON,
        "algorithm": ffgg(EXACT),
        "evaluate": {"every": 1_000_000, "tuned": {"epochs": 0}},
        **sections,
    }
    return validate(document, Path(), "test")


def engine(communicator: Communicator | None = None, **sections: Any) -> Synchronous:
    """Return an engine that has not run yet."""
    return Synchronous(build(config(**sections), communicator or SoloCommunicator()))


def scores(communicator: Communicator | None = None, **sections: Any) -> list[Scored]:
    """Run to the end and return all scores."""
    return list(engine(communicator, **sections))


def norms(**sections: Any) -> dict[int, float]:
    """Run to the end and return {round: ‖F(θ)‖}."""
    return {scored.round: float(scored.metrics["operator_norm"]) for scored in scores(**sections)}
