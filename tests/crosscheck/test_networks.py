"""Five rounds of six methods on a network with convolutions beside torch.nn and autograd: θ and what clients keep.

Same samples, initial parameters, cohorts and mini-batches; everything else is computed twice.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import validate
from ppfl.core.rng import generator
from ppfl.engine.synchronous import Synchronous
from ppfl.runs.assemble import build
from tests.crosscheck import networks, published
from tests.crosscheck.networks import CHANNELS, HIDDEN, KERNEL, NUM_CLASSES, Batch, Ended, Given

pytestmark = pytest.mark.slow

SEED, ROUNDS, BATCH, TUNING_BATCH = 7, 5, 8, 6
SIZES = (23, 9, 40, 14, 31)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
STEPS: dict[str, Any] = {"lr": 0.1, "epochs": 2, "batch_size": BATCH}
TUNER: dict[str, Any] = {"name": "sgd", "lr": 0.05, "batch_size": TUNING_BATCH, "epochs": 2}
METHODS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "fedalt": (["conv2.*"], {**STEPS, "fine_tuner": TUNER}),
    "fedsim": (["conv1.*", "head.bias"], STEPS),
    "fedrep": (["head.*"], {"lr": 0.1, "local_steps": 1, "batch_size": BATCH, "fine_tuner": TUNER}),
    "ditto": ([], {**STEPS, "penalty": 0.7}),
    "pfedme": ([], {**STEPS, "penalty": 3.0, "inner_steps": 3, "inner_lr": 0.08}),
    "apfl": ([], {**STEPS, "mixing": 0.4, "mixing_lr": 0.6}),
}
BETA = 0.8
"""pFedMe's, the server optimizer's lr."""


@cache
def samples() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pixels (S, 28, 28) float32 and labels of every client, each with tones and labels of its own."""
    draw = np.random.default_rng(3)
    shapes = draw.standard_normal((NUM_CLASSES, 28, 28))
    clients = []
    for size in SIZES:
        y = draw.choice(NUM_CLASSES, size, p=draw.dirichlet(np.ones(NUM_CLASSES)))
        x = 0.5 * shapes[y] + draw.standard_normal((size, 28, 28)) + 0.3 * draw.standard_normal()
        clients.append((x.astype(np.float32), y))
    return clients


@cache
def stored() -> str:
    """Write them."""
    folder = tempfile.mkdtemp(prefix="ppfl-crosscheck-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "train.h5"
    with h5py.File(path, "w") as file:
        for number, (x, y) in enumerate(samples()):
            file[f"examples/{number}/pixels"] = x
            file[f"examples/{number}/label"] = y
    return str(path)


def document(name: str, precision: str, clients_per_chunk: int) -> dict[str, Any]:
    local, settings = METHODS[name]
    model = {"name": "cnn", "channels": list(CHANNELS), "kernel_size": KERNEL, "hidden": HIDDEN}
    dataset = {"name": "federated_hdf5", "train": stored(), "test": 0, "validation": 0}
    return {
        "name": "crosscheck", "seed": SEED, "rounds": ROUNDS, "precision": precision, "cohort": 3, "weights": "samples",
        "problem": {
            "name": "supervised", "dataset": dataset, "model": model, "batch_size": "all", "split": {"local": local}
        },
        "algorithm": {"name": name, **settings}, "evaluate": {"every": ROUNDS, "tuned": None},
        "engine": {"clients_per_chunk": clients_per_chunk},
        "server_optimizer": {"name": "sgd", "lr": BETA if name == "pfedme" else 1.0},
    }  # fmt: skip


def batches(purpose: str, size: int, steps: int | None, epochs: int, dtype: torch.dtype, m: int, k: int) -> list[Batch]:
    """Return the mini-batches that ppfl draws for client m in round k."""
    x, y = samples()[m]
    draw = generator(SEED, purpose, round=k, client=m)
    orders = [draw.permutation(len(y)) for _ in range(epochs)]
    rows = [order[begin : begin + size] for order in orders for begin in range(0, len(y), size)][:steps]
    return [(torch.from_numpy(x[of_step][:, None]).to(dtype), torch.from_numpy(y[of_step])) for of_step in rows]


@cache
def play(name: str, precision: str, clients_per_chunk: int) -> tuple[Ended, Given]:
    """Run ppfl; return where it ends, and what the other hand is given."""
    config = document(name, precision, clients_per_chunk)
    setup = build(validate(config, Path(), "crosscheck"), SoloCommunicator())
    objective, dtype = setup.problem.objective, getattr(torch, precision)
    steps, settings = config["algorithm"].get("local_steps"), config["algorithm"]
    given = Given(
        shared=objective.init_shared(),
        local=[objective.init_local(m) for m in range(len(SIZES))],
        cohorts=[sorted(setup.cohort(k)) for k in range(ROUNDS)],
        sizes=list(SIZES),
        training=lambda m, k: batches(
            "order of samples for training", BATCH, steps, settings.get("epochs", 1), dtype, m, k
        ),
        tuning=lambda m, k: batches("order of samples", TUNING_BATCH, None, TUNER["epochs"], dtype, m, k),
    )
    engine = Synchronous(setup)
    for _ in engine:
        pass
    states = [engine.group.state(m) for m in range(len(SIZES))]
    kept = [{**state.get("personal", state["local"]), **state.get("mixing", {})} for state in states]
    return (engine.server["shared"], kept), given


@cache
def by_hand(name: str, precision: str) -> Ended:
    """Return where the other hand ends; what it is given does not depend on chunks."""
    ended: Ended = getattr(networks, name)(play(name, precision, 1)[1], **settings_of(name))
    return ended


def settings_of(name: str) -> dict[str, Any]:
    """Return what the function with the name of the method is given."""
    _, settings = METHODS[name]
    of_ppfl = {"epochs", "local_steps", "batch_size", "fine_tuner"}
    others = {"tuning_lr": TUNER["lr"]} if "fine_tuner" in settings else {"beta": BETA} if name == "pfedme" else {}
    return {key: value for key, value in settings.items() if key not in of_ppfl} | others


def distance(found: Ended, wanted: Ended) -> float:
    """Return the largest relative distance, of θ and of what each client keeps, tensor by tensor."""
    pairs = list(zip([found[0], *found[1]], [wanted[0], *wanted[1]], strict=True))
    assert all(set(one) == set(other) for one, other in pairs)
    return max(float((one[name] - x).norm() / x.norm()) for one, other in pairs for name, x in other.items())


@pytest.mark.parametrize("clients_per_chunk", [1, 3])
@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize("name", list(METHODS))
def test_five_rounds_are_those_of_an_independent_hand(name: str, precision: str, clients_per_chunk: int) -> None:
    found, given = play(name, precision, clients_per_chunk)
    assert distance(found, by_hand(name, precision)) < TOLERANCE[precision]
    assert {m for cohort in given.cohorts for m in cohort} == set(range(len(SIZES)))


@pytest.mark.parametrize("name", list(METHODS))
def test_everybody_has_moved_and_clients_apart(name: str) -> None:
    """Else equality would say little."""
    (shared, kept), given = play(name, "float32", 1)
    begun = [given.shared, *([w or given.shared for w in given.local])]
    for now, before in zip([shared, *kept], begun, strict=True):
        assert all(float((now[parameter] - x).norm() / x.norm()) > 1e-3 for parameter, x in before.items())
    assert all(distance((shared, [one]), (shared, [other])) > 1e-3 for one, other in combinations(kept, 2))


@pytest.mark.parametrize("what", published.DEVIATIONS)
def test_what_public_code_does_otherwise_would_be_seen(what: str) -> None:
    """The table in docs/methods.md: none of it is within a hundred times the tolerance."""
    name, play_otherwise = published.DEVIATIONS[what]
    found, given = play(name, "float32", 1)
    assert distance(found, play_otherwise(given, **settings_of(name))) > 100 * TOLERANCE["float32"]


@pytest.mark.parametrize("name", ["pfedme", "apfl"])
def test_loops_of_deviations_are_right_where_nothing_deviates(name: str) -> None:
    """So that what is seen is the deviation."""
    found, given = play(name, "float64", 1)
    assert distance(found, published.without_deviation(given, name, settings_of(name))) < TOLERANCE["float64"]
