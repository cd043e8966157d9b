"""The made-up files of public schemas: read by their readers, the same every time, with something to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppfl.catalogue.tiny import make_tiny
from ppfl.comm.solo import SoloCommunicator
from ppfl.runs.assemble import build
from tests.engine.build import config, engine
from tests.tasks.test_token_runs import PLUGINS


def sections(folder: Path, name: str) -> dict[str, Any]:
    folder /= name
    of_files = {
        "femnist": {"train": f"{folder}/femnist_train.h5", "test": f"{folder}/femnist_test.h5"},
        "gldv2": {"train": f"{folder}/gldv2.h5"},
        "stackoverflow": {
            "train": f"{folder}/stackoverflow_train.h5", "test": f"{folder}/stackoverflow_test.h5", "unit": "words",
            "counts": f"{folder}/stackoverflow.word_count", "words": 20, "length": 10,
        },
    }[name]  # fmt: skip
    problem: dict[str, Any] = {
        "name": "supervised", "dataset": {"name": "federated_hdf5", **of_files}, "split": {"local": []},
        "model": {"name": "mlp", "hidden": [16]}, "batch_size": "all",
    }  # fmt: skip
    if name == "stackoverflow":
        problem["dataset"]["name"], problem["model"] = "text_hdf5", {"name": "tiny_tokens", "width": 8}
        problem["task"] = {"name": "next_token", "out_of_vocabulary": 21, "end": 23}
    return {
        "plugins": [PLUGINS], "problem": problem, "rounds": 30, "precision": "float32",
        "algorithm": {"name": "fedavg", "lr": 0.5 if name == "stackoverflow" else 0.1, "local_steps": 4},
        "evaluate": {"every": 30, "tuned": {"epochs": 0}},
    }  # fmt: skip


NAMES = ("femnist", "gldv2", "stackoverflow")


@pytest.mark.parametrize("name", NAMES)
def test_a_network_learns_from_them(name: str, tmp_path: Path) -> None:
    make_tiny(name, tmp_path)
    first, *_, last = (scored.metrics for scored in engine(**sections(tmp_path, name)))
    assert last["test_loss"] < first["test_loss"]
    assert last["test_accuracy"] > first["test_accuracy"] + 0.1


@pytest.mark.parametrize(("name", "num_classes"), [("femnist", 62), ("gldv2", 2028), ("stackoverflow", 24)])
def test_they_have_as_many_classes_as_the_public_ones(name: str, num_classes: int, tmp_path: Path) -> None:
    make_tiny(name, tmp_path)
    problem = build(config(**sections(tmp_path, name)), SoloCommunicator()).problem
    assert problem.client_data.num_classes == num_classes  # type: ignore[attr-defined]
