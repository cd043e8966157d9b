"""What may be asked for beside the scores of a run, all at once: newcomers, the best round, histories and shifts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config, validate
from ppfl.jobs.attempt import Caller
from ppfl.results.reader import Result, open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.mpi.jobs import arrays
from tests.ranks import on_ranks

GD: dict[str, Any] = {"name": "gradient_descent", "steps": 1, "lr": 0.3}
HELD_OUT = ("b", "c", "f")
SOURCE = '''\
import numpy as np

SIZES = {"a": (9, 5, 4), "b": (5, 2, 3), "c": (12, 3, 0), "d": (7, 0, 5), "e": (0, 2, 2), "f": (10, 4, 6),
         "g": (6, 3, 3), "h": (8, 4, 2), "i": (7, 3, 3)}


def build(without=()):
    """Return clients with samples for validation of their own, which no cut draws; the same, however many there are."""
    draw, found = np.random.default_rng(0), {}
    centres = draw.normal(size=(3, 5))
    for name, sizes in SIZES.items():
        moved, parts = centres + draw.normal(size=5), {}
        for part, size in zip(("train", "validation", "test"), sizes, strict=True):
            labels = np.arange(size) % 3
            parts[part] = moved[labels] + 2 * draw.normal(size=(size, 5)), labels
        if name not in without:
            found[name] = parts
    return found
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of nine clients."""
    path = tmp_path_factory.mktemp("data")
    (path / "nine.py").write_text(SOURCE)
    return path


def asked(folder: Path, *, held_out: bool = True, **sections: Any) -> Config:
    """Return a run with all of it, that holds clients out or does not have them."""
    without = [] if held_out else list(HELD_OUT)
    problem = {
        "name": "supervised",
        "dataset": {"name": "function", "from": "nine:build", "arguments": {"without": without},
                    "normalize": {"mean": [0.1] * 5, "std": [2.0] * 5}},
        "model": {"name": "mlp", "hidden": [4, 4]}, "split": {"local": ["head.*"]}, "batch_size": 4,
    }  # fmt: skip
    evaluate: dict[str, Any] = {"every": 1, "tuned": {"epochs": 1, "fine_tuner": GD}, "history": True,
                                "best_round": {"patience": 3}}  # fmt: skip
    if held_out:
        evaluate["newcomers"] = {"clients": list(HELD_OUT), "steps": [1, 3], "in_rounds": True}
    base = {"name": "asked", "rounds": 12, "seed": 3, "problem": problem, "evaluate": evaluate, "save": {"local": True},
            "algorithm": {"name": "fedsim", "lr": 0.9, "local_steps": 2}}  # fmt: skip
    return validate({**base, **sections}, folder, "test")


CASES: dict[str, dict[str, Any]] = {
    "cohort, chunks and files": {
        "cohort": 3, "engine": {"clients_per_chunk": 2, "client_state": "file"},
        "strategic": {"clients": ["a", "h"], "scale": 1.5, "noise": 0.01},
    },
    "compressed, in chunks and files": {
        "cohort": 3, "engine": {"clients_per_chunk": 2, "client_state": "file"},
        "compression": {"compressor": {"name": "quantizer", "bits": 3}},
    },
    "attack": {"byzantine": {"clients": 1, "attack": {"name": "sign_flip"}}, "aggregator": {"name": "median"}},
    "clock": {
        "asynchronous": {"engine": "virtual", "concurrency": 2}, "compute_times": {"name": "exponential"}, "rounds": 20,
    },
}  # fmt: skip


@pytest.mark.parametrize("sections", CASES.values(), ids=list(CASES))
def test_all_at_once_is_what_each_is_alone(folder: Path, tmp_path: Path, sections: dict[str, Any]) -> None:
    """The others train, are judged, end early and are remembered as if nobody were held out; on other ranks, and
    stopped after every other round on ranks in turn, the result has the same bytes."""
    config = asked(folder, **sections)
    run(config, tmp_path / "held.h5", Silent(), SoloCommunicator())
    run(asked(folder, held_out=False, **sections), tmp_path / "alone.h5", Silent(), SoloCommunicator())
    found, wanted = arrays(tmp_path / "held.h5"), arrays(tmp_path / "alone.h5")
    trained = {name for name in wanted if not name.startswith(("summary/", "stages/"))}
    assert {name: found[name] for name in trained} == {name: wanted[name] for name in trained}
    held, alone = (open_result(tmp_path / f"{name}.h5") for name in ("held", "alone"))
    assert held.best_round == alone.best_round
    assert 0 < held.best_round["round"] < held.best_round["last_round"] < config.rounds
    stages = alone.summary.stage.to_numpy().tolist()
    assert held.summary.stage.to_numpy().tolist() == [*stages, "newcomers_0", "newcomers_1", "newcomers_3"]
    assert held.summary.sel(stage=stages).equals(alone.summary)
    assert_rounds_are_of_clients(held)

    on_ranks(3, lambda communicator: run(config, tmp_path / "ranks.h5", Silent(), communicator))
    assert arrays(tmp_path / "ranks.h5") == found
    assert in_pieces(config, tmp_path / "pieces.h5") > 3
    assert arrays(tmp_path / "pieces.h5") == found


def assert_rounds_are_of_clients(result: Result) -> None:
    """What stages say is what the history has of their rounds, and the last series of newcomers what they end with."""
    best = result.best_round
    for stage, round in {"personal": best["last_round"], "best_personal": best["round"]}.items():
        then = result.rounds.sel(round=round)
        for metric in ("validation_loss", "test_accuracy"):
            np.testing.assert_array_equal(result.clients[f"{stage}_{metric}"], then[f"client_{metric}"])
    for steps in (0, 1, 3):
        series = result.rounds[f"newcomers_{steps}_test_loss"].to_numpy()
        assert series[-1] == float(result.summary.test_loss.sel(stage=f"newcomers_{steps}", statistic="mean"))


def in_pieces(config: Config, out: Path) -> int:
    """Run, stopped whenever two more rounds are done, on one rank and on two in turn; return the number of pieces."""
    done, pieces, status = 0, 0, "stopped"

    def told(rounds: int) -> None:
        nonlocal done
        done = rounds

    while status == "stopped":
        goal = done + 2
        caller = Caller(told=told, wants_stop=lambda goal=goal: done >= goal)
        (status, *_) = on_ranks(1 + pieces % 2, lambda one, by=caller: run(config, out, Silent(), one, caller=by))
        pieces += 1
    return pieces


def test_clusters_of_a_shift_go_with_their_clients(tmp_path: Path) -> None:
    """In the file each client is in the cluster that it is in where nobody is held out."""
    dataset = {"name": "digits", "partition": {"name": "iid", "clients": 8},
               "shift": {"name": "rotation", "clusters": 3, "order": "drawn"}}  # fmt: skip
    problem = {"name": "supervised", "dataset": dataset, "model": {"name": "logistic_regression"},
               "split": {"local": []}, "batch_size": 8}  # fmt: skip
    document = {"name": "r", "rounds": 1, "problem": problem,
                "algorithm": {"name": "fedavg", "lr": 0.1, "local_steps": 1}}  # fmt: skip
    evaluate = {"tuned": None, "newcomers": {"clients": 0.4, "fine_tuner": GD}}
    for name, sections in {"all": {}, "held": {"evaluate": evaluate}}.items():
        run(validate({**document, **sections}, tmp_path, "test"), tmp_path / f"{name}.h5", Silent())
    everyone, held = open_result(tmp_path / "all.h5").clients, open_result(tmp_path / "held.h5")
    assert len(set(everyone.cluster.to_numpy().tolist())) == 3
    for group in (held.clients, held.newcomers):
        names = group.client.to_numpy()
        assert group.cluster.dims == ("client",)
        np.testing.assert_array_equal(group.cluster, everyone.cluster.sel(client=names))
