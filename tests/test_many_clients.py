"""What is done for a client that takes no part: nothing in Python, at the start, in a round and in scores."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import validate
from ppfl.engine.evaluate import score_rounds, score_stages
from ppfl.engine.run import play_round
from ppfl.engine.synchronous import Synchronous
from ppfl.results import recorder
from ppfl.results.reader import open_result
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run as run_to_file
from ppfl.runs.progress import Silent
from ppfl.submit.memory import memory_mb
from tests.ranks import on_ranks

torch.set_num_threads(1)

COHORT, SCORED, SAMPLES = 8, 12, 10


def document(folder: Path, clients: int) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    path = folder / f"flat-{clients}.h5"
    with h5py.File(path, "w") as file:
        file["samples"] = draw.standard_normal((clients * SAMPLES, 5)).astype(np.float32)
        file["label"] = draw.integers(0, 3, clients * SAMPLES)
        file["offsets"] = np.arange(clients + 1) * SAMPLES
        file["client"] = np.array([f"c{number:05d}".encode() for number in range(clients)])
    return {
        "name": "many", "rounds": 4, "cohort": COHORT, "evaluate": {"every": 2, "clients": SCORED},
        "problem": {
            "name": "supervised", "dataset": {"name": "federated_hdf5", "train": str(path)},
            "model": {"name": "mlp", "hidden": [4]}, "split": {"local": ["head.*"]}, "batch_size": 2,
        },
        "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "gradient_descent", "lr": 0.1, "steps": 2}},
    }  # fmt: skip


def calls(action: Callable[[], object]) -> int:
    """Return how many functions of Python were called, generators that go on included."""
    number = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal number
        number += event == "call"

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return number


def calls_of_run(folder: Path, clients: int) -> dict[str, int]:
    config, engines = validate(document(folder, clients), folder, "many"), []
    found = {"start": calls(lambda: engines.append(Synchronous(build(config, SoloCommunicator()))))}
    engine = engines[0]
    score_rounds([engine], 0)
    play_round(engine, 0)
    found["round"] = calls(lambda: play_round(engine, 1))
    found["scores"] = calls(lambda: score_rounds([engine], 2))
    found["changed"] = calls(lambda: engine.group.changed)
    found["stages"] = calls(lambda: score_stages([engine]))
    return found


def test_calls_of_python_do_not_grow_with_the_clients(tmp_path: Path) -> None:
    calls_of_run(tmp_path, 50)  # what is done once a process
    # a draw or a sum may make some calls more or less
    assert calls_of_run(tmp_path, 2000) == pytest.approx(calls_of_run(tmp_path, 200), rel=0.03)


def test_ranks_of_whose_clients_none_is_scored(tmp_path: Path) -> None:
    config = validate(document(tmp_path, 60) | {"evaluate": {"clients": 2, "every": 2}}, tmp_path, "many")

    def scores(communicator: Any) -> tuple[list[Any], list[Any]]:
        engine = Synchronous(build(config, communicator))
        rounds = [scored.metrics for scored in engine]
        stages = score_stages([engine])[0]
        return rounds, [values.tobytes() for of in stages.scores.values() for values in of.values()]

    alone = scores(SoloCommunicator())
    assert np.isfinite([list(metrics.values()) for metrics in alone[0]]).all()
    assert all(of_rank == alone for of_rank in on_ranks(4, scores))


def test_an_unfinished_result_leaves_large_facts_about_clients_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write would have them again, and take as long as they are many."""
    config, out = validate(document(tmp_path, 60), tmp_path, "many"), tmp_path / "r.h5"
    seen: list[tuple[str, list[str]]] = []
    original = recorder.Recorder.write

    def write(self: recorder.Recorder) -> None:
        original(self)
        result = open_result(self.out)
        seen.append((result.attrs["status"], list(result.clients)))

    monkeypatch.setattr(recorder.Recorder, "write", write)
    monkeypatch.setattr(recorder, "_MOST_CLIENT_BYTES", 1000)
    run_to_file(config, out, Silent(), SoloCommunicator())
    assert len(seen) > 1
    assert all(status == "running" and not names for status, names in seen[:-1])
    assert seen[-1][0] == "complete"
    assert {"label_histogram", "num_train_samples", "personal_test_loss"} <= set(seen[-1][1])
    assert open_result(out).clients.sizes["client"] == 60


def test_memory_of_a_flat_file_is_estimated(tmp_path: Path) -> None:
    few, many = (
        memory_mb([validate(document(tmp_path, clients), tmp_path, "many")], 1, gpus=False) for clients in (50, 60_000)
    )
    assert few is not None
    assert many is not None
    assert many > few
