"""`ppfl run` on the problem of the cross-checks, and what is compared with NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import validate
from ppfl.core.rng import generator
from ppfl.results.parameters import load_local, load_shared
from ppfl.results.reader import Result, open_result
from ppfl.runs.assemble import build
from tests.crosscheck.problem import (
    SPLITS,
    TEST,
    TRAIN,
    WIDTH,
    Problem,
    Round,
    Rounds,
    Vector,
    World,
    write_samples,
)  # fmt: skip
from tests.crosscheck.servers import direction_of
from tests.grids import ppfl

ROUNDS = 6
TOLERANCE = 1e-12
SEED = 24
RIDGE = 0.05
FULL: dict[str, Any] = {"cohort": "all", "weights": "uniform"}
SAMPLED: dict[str, Any] = {"cohort": 3, "weights": "samples"}
_ORDER = ("hidden1.weight", "hidden1.bias", "head.weight", "head.bias")


@dataclass(frozen=True)
class Ran:
    """What a run has left."""

    result: Result
    theta: Vector
    w: list[Vector]


def document(folder: Path, split: str, algorithm: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return a configuration, float64, scored after every round."""
    files = {"train": TRAIN, "test": TEST}
    dataset = {key: str(write_samples(folder / f"{key}.h5", clients)) for key, clients in files.items()}
    problem = {
        "name": "supervised", "dataset": {"name": "federated_hdf5", "validation": 0, **dataset},
        "model": {"name": "mlp", "hidden": [WIDTH]}, "batch_size": "all",
        "split": {"local": [] if split == "nothing" else [f"{split}.*"]}, **others.pop("problem", {}),
    }  # fmt: skip
    return {
        "name": "crosscheck", "seed": SEED, "rounds": ROUNDS, "precision": "float64", "problem": problem,
        "algorithm": algorithm, "evaluate": {"every": 1, "tuned": {"epochs": 2}}, "save": {"local": True}, **others,
    }  # fmt: skip


def run(folder: Path, config: dict[str, Any]) -> Ran:
    """Run a configuration from its file."""
    path, out = folder / "run.yaml", folder / "run.h5"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    ended = ppfl("run", path, "--out", out)
    assert ended.exit_code == 0, ended.output
    local = load_local(out) if config["problem"]["split"]["local"] else {}
    # methods with a model for each client keep all that it deploys
    layers = tuple(glob.removesuffix("*") for glob in config["problem"]["split"]["local"])
    w = [
        _flat({name: value for name, value in local.get(m, {}).items() if name.startswith(layers)})
        for m in range(len(TRAIN))
    ]
    return Ran(open_result(out), _flat(load_shared(out)), w)


def world_of(config: dict[str, Any]) -> World:
    """Return what NumPy takes over from ppfl: the drawn initial parameters, cohorts and coins."""
    setup = build(validate(config, Path(), "crosscheck"), SoloCommunicator())
    problem, algorithm = config["problem"], config["algorithm"]
    (split, *_) = [*(name.removesuffix(".*") for name in problem["split"]["local"]), "nothing"]
    squared = problem["name"] == "least_squares"
    weighted = config.get("weights") == "samples"

    def averages(k: int) -> bool:
        return bool(generator(SEED, "l2gd coin", round=k).random() < algorithm["probability"])

    return World(
        f=Problem(SPLITS[split], squared, RIDGE if squared else 0.0),
        theta=_flat(setup.problem.objective.init_shared()),
        w=_flat(setup.problem.objective.init_local(0)),
        cohorts=[sorted(setup.cohort(k)) for k in range(config["rounds"])],
        weights=np.array([len(y) if weighted else 1 for _, y in TRAIN], float),
        direction=direction_of(**config.get("server_optimizer", {"name": "sgd"})),
        averages=averages,
    )


def compare(ran: Ran, world: World, rounds: Rounds) -> Round:
    """Assert that θ, w, scores and costs are those of the reference; return its last round."""
    nothing = Round(world.theta, [(world.theta, world.w) for _ in world.clients])
    states = [nothing, *rounds]
    last, recorded = states[-1], ran.result.rounds
    near("theta", ran.theta, last.theta)
    for m, (_, w) in enumerate(last.deployed):
        near(f"w of client {m}", ran.w[m], w)
    size = world.theta.nbytes
    units = {"shared_gradients": 1, "local_gradients": world.w.size > 0, "uplink_bytes": size, "downlink_bytes": size}
    for name, of_rounds in zip(units, zip(*(state.costs for state in states), strict=True), strict=True):
        near(name, recorded[name].to_numpy(), units[name] * np.cumsum(of_rounds))
    for name, values in _scores_of_rounds(world, states).items():
        near(name, recorded[name].to_numpy(), values)
    stages = {"global": [(last.theta, world.w) for _ in world.clients], "personal": last.deployed}
    for stage, models in stages.items():
        compare_stage(ran, world, stage, models)
    return last


def compare_stage(ran: Ran, world: World, stage: str, models: list[tuple[Vector, Vector]]) -> None:
    """Assert that every client's scores in a stage are those of its model."""
    losses = [world.f.data_loss(TEST[m], *model) for m, model in enumerate(models)]
    near(f"{stage} loss", ran.result.clients[f"{stage}_test_loss"].to_numpy(), np.array(losses))
    right = [world.f.accuracy(TEST[m], *model) for m, model in enumerate(models)]
    near(f"{stage} accuracy", ran.result.clients[f"{stage}_test_accuracy"].to_numpy(), np.array(right))
    sizes = np.array([len(y) for _, y in TEST])
    summary = ran.result.summary.test_loss.sel(stage=stage)
    near("mean", summary.sel(statistic="mean").to_numpy(), np.mean(losses))
    near("weighted mean", summary.sel(statistic="weighted_mean").to_numpy(), np.average(losses, weights=sizes))


def near(what: str, found: Any, wanted: Any) -> None:
    assert np.shape(found) == np.shape(wanted), what
    assert np.linalg.norm(found - wanted) <= TOLERANCE * np.linalg.norm(wanted), (what, found, wanted)


def _scores_of_rounds(world: World, states: list[Round]) -> dict[str, Vector]:
    """Return the means over clients of what they deploy."""

    def mean(score: Any, samples: Any) -> Vector:
        return np.array([np.mean([score(samples[m], *state.deployed[m]) for m in world.clients]) for state in states])

    return {
        "loss": mean(world.f.loss, TRAIN),
        "test_loss": mean(world.f.data_loss, TEST),
        "test_accuracy": mean(world.f.accuracy, TEST),
    }


def _flat(params: Any) -> Vector:
    parts = [params[name].numpy().ravel() for name in _ORDER if name in params]
    return np.concatenate(parts) if parts else np.zeros(0)
