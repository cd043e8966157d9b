"""Server optimizers, fine-tuners, mini-batches and asynchronous steps through `ppfl run` against plain NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppfl.core.rng import generator
from tests import examples
from tests.crosscheck import servers, tuners
from tests.crosscheck.methods import ffgg
from tests.crosscheck.problem import TRAIN
from tests.crosscheck.runs import RIDGE, SAMPLED, SEED, compare, document, near, run, world_of
from tests.crosscheck.tuners import tune

pytestmark = pytest.mark.slow

LEAST_SQUARES: dict[str, Any] = {"name": "least_squares", "ridge": RIDGE}
_GD: dict[str, Any] = {"name": "gradient_descent", "steps": 2, "lr": 0.3}
SERVERS = [name for name in examples.names("server_optimizers") if hasattr(servers, name)]
TUNERS = [name for name in examples.names("fine_tuners") if hasattr(tuners, name)]


def test_all_that_come_with_ppfl_have_a_formula() -> None:
    for folder, compared, file in (("server_optimizers", SERVERS, "servers"), ("fine_tuners", TUNERS, "tuners")):
        missing = examples.names_of_files(folder) - set(compared)
        assert not missing, f"write {', '.join(missing)} in tests/crosscheck/{file}.py"


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_optimizer_is_its_formula(name: str, tmp_path: Path) -> None:
    settings = {"lr": 0.4, "fine_tuner": _GD}
    server = examples.section("server_optimizers", name)
    config = document(tmp_path, "head", {"name": "ffgg", **settings}, server_optimizer=server, **SAMPLED)
    world = world_of(config)
    compare(run(tmp_path, config), world, ffgg(world, **settings))


@pytest.mark.parametrize("name", TUNERS)
def test_a_fine_tuner_is_its_formula(name: str, tmp_path: Path) -> None:
    settings = {"lr": 0.2, "fine_tuner": examples.section("fine_tuners", name)}
    config = document(tmp_path, "head", {"name": "ffgg", **settings}, problem=LEAST_SQUARES, **SAMPLED)
    world = world_of(config)
    compare(run(tmp_path, config), world, ffgg(world, **settings))


def rows(purpose: str, size: int, epochs: int, m: int, k: int) -> list[Any]:
    """Return the mini-batches that ppfl draws for client m in round k."""
    num_samples = len(TRAIN[m][1])
    draw = generator(SEED, purpose, round=k, client=m)
    orders = [draw.permutation(num_samples) for _ in range(epochs)]
    return [order[begin : begin + size] for order in orders for begin in range(0, num_samples, size)]


def test_mini_batches_are_steps_on_their_samples(tmp_path: Path) -> None:
    """FedRep: epochs over w, then steps on θ, each on the next few samples; the last batch of an epoch is smaller."""
    tuner = {"name": "sgd", "lr": 0.1, "batch_size": 4, "epochs": 2}
    steps = {"lr": 0.1, "epochs": 1, "batch_size": 5}
    config = document(tmp_path, "head", {"name": "fedrep", **steps, "fine_tuner": tuner}, **SAMPLED)
    world = world_of(config)
    theta, w = world.theta, [world.w for _ in world.clients]
    for k, cohort in enumerate(world.cohorts):
        ends = {}
        for m in cohort:
            w[m] = tune(world.f, m, theta, w[m], **tuner, batches=rows("order of samples", 4, 2, m, k))
            end = theta
            for batch in rows("order of samples for training", 5, 1, m, k):
                x, y = TRAIN[m]
                end = end - 0.1 * world.f.gradients((x[batch], y[batch]), end, w[m])[0]
            ends[m] = end
        theta = world.mean(ends)
    ran = run(tmp_path, config)
    near("theta", ran.theta, theta)
    near("w", np.concatenate(ran.w), np.concatenate(w))
    # an epoch counts as one gradient, also where its last batch is smaller
    num_jobs = np.cumsum([0, *map(len, world.cohorts)])
    near("of theta", ran.result.rounds.shared_gradients.to_numpy(), num_jobs)
    near("of w", ran.result.rounds.local_gradients.to_numpy(), 2 * num_jobs)


@pytest.mark.parametrize("step", ["constant", "delay_adaptive"])
@pytest.mark.parametrize(("buffer", "concurrency", "max_staleness"), [(2, 4, None), (1, "all", 6)])
def test_asynchronous_steps_follow_the_delays(
    step: str, buffer: int, concurrency: Any, max_staleness: int | None, tmp_path: Path
) -> None:
    """θ ← θ − γ s(d) · mean of the buffer, in the order of arrivals that the run has recorded."""
    rules = {"buffer": buffer, "concurrency": concurrency, "max_staleness": max_staleness, "step": step}
    config = document(
        tmp_path, "head", {"name": "ffgg", "lr": 0.5, "fine_tuner": {"name": "exact"}}, problem=LEAST_SQUARES,
        asynchronous={"engine": "virtual", **rules}, compute_times={"name": "exponential"}, rounds=30,
    )  # fmt: skip
    world = world_of({**config, "asynchronous": None, "compute_times": None, "cohort": "all"})
    ran = run(tmp_path, config)
    num_in_flight = len(TRAIN) if concurrency == "all" else concurrency
    versions, held, delays = [world.theta], [], []
    dropped = 0
    arrivals = ran.result.arrivals
    for m, version, delay in zip(*(arrivals[name].to_numpy() for name in ("client", "version", "delay")), strict=True):
        assert delay == len(versions) - 1 - version
        if max_staleness is not None and delay > max_staleness:
            dropped += 1
            continue
        theta = versions[version]
        held.append(world.f.of_theta(m, theta, tune(world.f, m, theta, world.w, name="exact")))
        delays.append(delay)
        if len(held) == buffer:
            factor = min(1, buffer / num_in_flight) if step == "constant" else 1 / max(1, *delays)
            versions.append(versions[-1] - 0.5 * factor * np.mean(held, axis=0))
            held, delays = [], []
    near("theta", ran.theta, versions[-1])
    near("updates", ran.result.rounds.server_updates.to_numpy()[-1], len(versions) - 1)
    near("dropped", ran.result.rounds.dropped_arrivals.to_numpy()[-1], dropped)
    assert (dropped > 0) == (max_staleness is not None)
    assert arrivals.delay.to_numpy().max() > 1
