"""Runs whose samples are tokens: one by one, side by side, on a card that is none, and what is refused before they start."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.config.run import load, validate
from ppfl.core.errors import UserError
from ppfl.interfaces.placement import ChunkMemory, Placement
from ppfl.runs.assemble import build
from tests import examples
from tests.engine.test_batched import assert_equal, found
from tests.examples.datasets.text_hdf5 import write
from tests.examples.tokens.models.tiny_tokens import TinyTokens
from tests.pretended_card import pretended_card

torch.set_num_threads(1)

PLUGINS = str(Path(__file__).parents[1] / "examples" / "tokens")
SPLITS = {"head": ["head.*"], "embedding": ["embed.*"], "all": ["*"], "nothing": []}


@cache
def folder() -> Path:
    return examples.files("datasets", "text_hdf5")


def problem(local: list[str], **others: Any) -> dict[str, Any]:
    files = {"train": str(folder() / "train.h5"), "test": str(folder() / "test.h5")}
    dataset = {"name": "text_hdf5", **files, "unit": "characters", "length": 5, "validation": 0.2}
    return {
        "name": "supervised", "dataset": dataset, "model": {"name": "tiny_tokens"}, "task": {"name": "next_token"},
        "split": {"local": local}, "batch_size": 3, **others,
    }  # fmt: skip


GD = {"name": "gradient_descent", "steps": 2, "lr": 0.3}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ffgg": ("head", {"name": "ffgg", "lr": 0.3, "fine_tuner": GD}),
    "ffgg, embedding": ("embedding", {"name": "ffgg", "lr": 0.3, "fine_tuner": {"name": "sgd", "lr": 0.3, "batch_size": 2}}),
    "ffgg, products": ("head", {"name": "ffgg", "lr": 0.3, "fine_tuner": {"name": "conjugate_gradient", "steps": 2}}),
    "fedavg": ("nothing", {"name": "fedavg", "lr": 0.3, "epochs": 1, "batch_size": 2}),
    "fedalt": ("head", {"name": "fedalt", "lr": 0.3, "local_steps": 2, "fine_tuner": GD}),
    "local_only": ("all", {"name": "local_only", "lr": 0.3, "local_steps": 2}),
}  # fmt: skip


def document(method: str, **others: Any) -> dict[str, Any]:
    split, algorithm = METHODS[method]
    return {"plugins": [PLUGINS], "problem": problem(SPLITS[split]), "algorithm": algorithm, **others}


@pytest.mark.parametrize("method", METHODS)
def test_clients_side_by_side_find_what_they_find_one_by_one(method: str) -> None:
    """Clients of unlike sizes, some with samples that are all padding."""
    alone = found(**document(method))
    assert_equal(found(**document(method, engine={"clients_per_chunk": 3})), alone)
    assert not any(np.isnan(value).any() for key, value in alone.items() if key.endswith("shared embed.weight"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clients_per_chunk", [1, 3])
def test_nothing_mixes_devices(method: str, clients_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_card(monkeypatch):
        found(**document(method, engine={"clients_per_chunk": clients_per_chunk}))
