"""Scaffold where clients weigh unequally and few take part: c stays Σ p_m c_m, and the end is where Σ p_m ∇f_m = 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from ppfl.cli import main
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.config.grid import load_cells
from ppfl.config.run import load
from ppfl.engine.synchronous import Synchronous
from ppfl.results.parameters import load_local, load_shared
from ppfl.runs.assemble import build
from tests.engine.build import config
from tests.numpy_reference import Array

SIZES = {"a": 6, "b": 40, "c": 0, "d": 14, "e": 9, "f": 25}
NUM_CLASSES = 3


@pytest.fixture
def experiment(tmp_path: Path) -> Any:
    """Return a function that writes a configuration: full batches of clients with 6 to 40 samples, 3 a round."""
    draw = np.random.default_rng(0)
    with h5py.File(tmp_path / "train.h5", "w") as file:
        for name, size in SIZES.items():
            file[f"examples/{name}/pixels"] = draw.standard_normal((size, 2))
            rare = draw.choice(NUM_CLASSES, size, p=draw.dirichlet([1.0] * NUM_CLASSES))
            file[f"examples/{name}/label"] = np.where(np.arange(size) < NUM_CLASSES, np.arange(size), rare)

    def write(name: str, local: list[str], **sections: Any) -> Path:
        dataset = {"name": "federated_hdf5", "train": "train.h5", "test": 0.0, "validation": 0.0}
        model = {"name": "logistic_regression"}
        document = {
            "name": "weighted", "rounds": 500, "precision": "float64", "cohort": 3, "weights": "samples",
            "problem": {"name": "supervised", "dataset": dataset, "model": model, "split": {"local": local},
                        "batch_size": "all"},
            "algorithm": {"name": name, "lr": 0.7, "local_steps": 3},
            "evaluate": {"every": 500, "tuned": {"epochs": 0}}, "save": {"local": True}, **sections,
        }  # fmt: skip
        path = tmp_path / "weighted.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


CASES = pytest.mark.parametrize(("name", "local"), [("scaffold", []), ("scaffold_theta", ["head.bias"])])


@CASES
@pytest.mark.parametrize("weights", ["samples", "uniform"])
def test_c_is_the_weighted_mean_of_all_c_m_after_every_round(
    experiment: Any, name: str, local: list[str], weights: str
) -> None:
    path = experiment(name, local, weights=weights, rounds=12, evaluate={"every": 1, "tuned": {"epochs": 0}})
    running = Synchronous(build(load(path), SoloCommunicator()))
    n = np.array([size if weights == "samples" else float(size > 0) for size in SIZES.values()])
    checked = 0
    for _ in running:
        checked += 1
        of_clients = np.stack([flat(running.group.state(m)["control"]) for m in range(len(SIZES))])
        of_server = flat(running.server["control"])
        np.testing.assert_allclose(of_server, n @ of_clients / n.sum(), rtol=0, atol=1e-14)
    assert checked == 13
    assert np.abs(of_clients).max() > 1e-2


@pytest.mark.slow
@CASES
def test_the_gradient_of_the_weighted_mean_vanishes(
    experiment: Any, tmp_path: Path, name: str, local: list[str]
) -> None:
    """Through `ppfl run`: 0.03 and more for ever when c moved by the number of clients."""
    out = tmp_path / "out.h5"
    called(["run", str(experiment(name, local)), "--out", str(out)])
    assert weighted_gradient(tmp_path, out) < 1e-13


@pytest.mark.slow
def test_so_it_does_in_a_pack(experiment: Any, tmp_path: Path) -> None:
    path = experiment("scaffold", [], grid={"seed": [0, 1]})
    called(["pack", str(path), "--out", str(tmp_path / "packed"), "--jobs", "1"])
    for digest in load_cells(path):
        assert weighted_gradient(tmp_path, tmp_path / "packed" / f"{digest}.h5") < 1e-13


def called(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def flat(params: dict[str, torch.Tensor]) -> Array:
    return np.concatenate([value.numpy().reshape(-1) for value in params.values()])


def weighted_gradient(folder: Path, out: Path) -> float:
    """‖Σ_m p_m ∇_1 f_m(θ, w_m)‖ of mean cross-entropy, in NumPy, from the files."""
    shared, local = load_shared(out), load_local(out)
    total: dict[str, Array] = {}
    with h5py.File(folder / "train.h5") as file:
        for m, (client, size) in enumerate(SIZES.items()):
            if not size:
                continue
            x, y = (file[f"examples/{client}/{field}"][()] for field in ("pixels", "label"))
            params = {key: value.numpy() for key, value in {**shared, **local.get(m, {})}.items()}
            logits = x @ params["head.weight"].T + params["head.bias"]
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            error = odds / odds.sum(axis=1, keepdims=True) - np.eye(NUM_CLASSES)[y]
            gradients = {"head.weight": error.T @ x / size, "head.bias": error.mean(axis=0)}
            for key in shared:
                total[key] = total.get(key, 0.0) + size / sum(SIZES.values()) * gradients[key]
    return float(np.linalg.norm(np.concatenate([value.reshape(-1) for value in total.values()])))


@pytest.mark.parametrize(
    ("aggregator", "where"),
    [
        ({"name": "median"}, "aggregator.name: .*allowed: 'mean'"),
        ({"name": "trimmed_mean", "f": 1}, "aggregator.name: .*allowed: 'mean'"),
        ({"name": "mean", "before": [{"name": "clipping", "threshold": 1.0}]}, "aggregator.before: .*allowed: nothing"),
    ],
)
@CASES
def test_a_rule_that_is_no_mean_is_refused_in_the_file(
    aggregator: dict[str, Any], where: str, name: str, local: list[str]
) -> None:
    algorithm = {"name": name, "lr": "theory", "local_steps": 3}
    with pytest.raises(ConfigError, match=f"{where}, since {name!r} takes the mean alone: its c has to stay"):
        config(algorithm=algorithm, aggregator=aggregator)


def test_attackers_beside_count_as_clients_that_always_take_part() -> None:
    flips = {"attack": {"name": "sign_flip"}, "clients": 2, "placement": "beside"}
    share_of = build(config(cohort=3, byzantine=flips), SoloCommunicator()).share_of
    assert share_of(frozenset({0, 1, 5})) == (3 + 2) / (8 + 2)
