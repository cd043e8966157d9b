"""Stages for tests of `start`: small configurations on digits, and runs of them in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config, load
from ppfl.core.communicator import Communicator
from ppfl.core.types import Params
from ppfl.engine.setup import Setup
from ppfl.jobs.attempt import NOBODY, Caller
from ppfl.results.tensor_file import write_tensors
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent

torch.set_num_threads(1)

ALL_SHARED: dict[str, Any] = {"name": "fedavg", "lr": 0.2, "local_steps": 2}
PARTIAL: dict[str, Any] = {"name": "fedsim", "lr": 0.1, "local_steps": 2}
DITTO: dict[str, Any] = {"name": "ditto", "lr": 0.2, "local_steps": 2, "penalty": 0.1}


def problem(*local: str, clients: int = 4, hidden: int = 8) -> dict[str, Any]:
    """Return a `problem:` section."""
    return {
        "name": "supervised",
        "dataset": {"name": "digits", "partition": {"name": "iid", "clients": clients}},
        "model": {"name": "mlp", "hidden": [hidden]},
        "split": {"local": list(local)},
        "batch_size": 32,
    }


def write(folder: Path, name: str, **sections: Any) -> Path:
    """Write a configuration; return its path."""
    base = {"name": name, "rounds": 3, "problem": problem(), "algorithm": ALL_SHARED}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**base, **sections}))
    return path


def personalized(folder: Path, name: str = "per", *local: str, **sections: Any) -> Path:
    """Write a configuration of FedSim with a local head, or what is given."""
    return write(folder, name, **{"algorithm": PARTIAL, "problem": problem(*(local or ("head.*",))), **sections})


def go(path: Path, *overrides: str, communicator: Communicator | None = None, caller: Caller = NOBODY) -> Config:
    """Run what a file describes to its usual place."""
    config = load(path, overrides)
    run(config, config.default_out(), Silent(), communicator or SoloCommunicator(), caller=caller)
    return config


def setup_of(path: Path, *overrides: str) -> Setup:
    """Build a run, and do not run it."""
    return build(load(path, overrides), SoloCommunicator())


def write_file(path: Path, params: Params) -> Path:
    """Write tensors as a program from outside does."""
    write_tensors(path, params, params.__getitem__, {})
    return path


def is_equal(one: Params, other: Params) -> bool:
    """Compare names and bits."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
