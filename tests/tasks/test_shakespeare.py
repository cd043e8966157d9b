"""The next character of real texts, as the public file has them: what is learned in seconds."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.engine.build import engine

FOLDER = Path(os.environ.get("PPFL_DATA", ""))
TRAIN, TEST = FOLDER / "shakespeare40_train.h5", FOLDER / "shakespeare40_test.h5"
SGD = {"name": "sgd", "lr": 0.5, "batch_size": 32}
RUNS: dict[str, tuple[dict[str, Any], list[str], dict[str, Any]]] = {
    "lstm": (
        {"name": "lstm", "embedding": 8, "hidden": 32, "layers": 1}, [],
        {"name": "fedavg", "lr": 2.0, "epochs": 1, "batch_size": 32},
    ),
    "transformer with norms of its own": (
        {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "feed_forward": 32}, ["*norm*"],
        {"name": "fedalt", "lr": 0.5, "epochs": 1, "batch_size": 32, "fine_tuner": SGD},
    ),
}  # fmt: skip


def perplexity_of_frequencies() -> float:
    """Return exp of the mean −log p of the characters to test on, with p as often as they are in those to train on."""
    counts: list[Counter[str]] = []
    for path in (TRAIN, TEST):
        with h5py.File(path) as file:
            texts = [text.decode() for group in file["examples"].values() for text in group["snippets"][:]]
        counts.append(Counter(character for text in texts for character in text))
    train, test = counts
    common = [character for character in test if character in train]
    surprise = [-np.log(train[character] / train.total()) for character in common]
    return float(np.exp(np.average(surprise, weights=[test[character] for character in common])))


@pytest.mark.skipif(not (TRAIN.is_file() and TEST.is_file()), reason="PPFL_DATA has no shakespeare40")
@pytest.mark.parametrize("name", RUNS)
def test_the_next_character_is_learned_from_snippets(name: str) -> None:
    """Four rounds of five clients are enough to know more than how often each character occurs."""
    model, local, algorithm = RUNS[name]
    dataset = {"name": "text_hdf5", "unit": "characters", "train": str(TRAIN), "test": str(TEST), "length": 20}
    problem = {
        "name": "supervised", "dataset": dataset, "task": {"name": "next_token"}, "model": model,
        "split": {"local": local}, "batch_size": "all",
    }  # fmt: skip
    evaluate = {"every": 4, "clients": 5, "tuned": None}
    sections = {"problem": problem, "algorithm": algorithm, "cohort": 5, "precision": "float32", "evaluate": evaluate}
    first, last = (scored.metrics for scored in engine(rounds=4, **sections))
    assert last["test_perplexity"] < perplexity_of_frequencies() < first["test_perplexity"]
    assert last["test_accuracy"] > first["test_accuracy"] + 0.1
