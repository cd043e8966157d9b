"""What every algorithm that is found has to satisfy, on a quadratic problem and on digits."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.core.params import flatten, num_bytes
from ppfl.engine.run import play_round
from ppfl.interfaces.gossip import Gossip
from ppfl.interfaces.pruning import Pruned
from ppfl.interfaces.query_points import QueryPoints
from tests.algorithms.cases import NAMES, PROBLEMS, QUADRATIC, cohorts_of, sections
from tests.engine.build import engine
from tests.ranks import on_ranks

EACH = [(name, problem) for name in NAMES for problem in PROBLEMS]
EACH_COHORT = [(name, problem, cohort) for name, problem in EACH for cohort in cohorts_of(name)]


def run(name: str, problem: str, communicator: Any = None, **others: Any) -> dict[str, np.ndarray]:
    """Run to the end; return everything that came out, except seconds."""
    running = engine(communicator, **sections(name, problem, **others))
    found: dict[str, Any] = {}
    for scored in running:
        found |= {f"{scored.round} {key}": value for key, value in {**scored.metrics, **scored.costs}.items()}
    groups = {"server": running.server} | {str(c): running.group.state(c) for c in running.group.clients}
    for owner, state in groups.items():
        for group, params in state.items():
            found |= {f"{owner} {group} {key}": value.numpy() for key, value in params.items()}
    assert running.status == "complete"
    return {key: np.asarray(value) for key, value in found.items() if not key.endswith("seconds")}


@cache
def base(name: str, problem: str, cohort: str | int = "all") -> dict[str, np.ndarray]:
    """One rank, one client at a time."""
    return run(name, problem, cohort=cohort)


@pytest.mark.parametrize(("name", "problem"), EACH)
def test_runs_and_everything_is_finite(name: str, problem: str) -> None:
    found = base(name, problem)
    assert all(np.isfinite(value).all() for value in found.values())
    if problem == "quadratic":  # elsewhere the loss is that of another mini-batch every round
        assert float(found["4 loss"]) < float(found["0 loss"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "problem", "cohort"), EACH_COHORT)
def test_vectorized_chunks_equal_the_loop(name: str, problem: str, cohort: str | int) -> None:
    one = base(name, problem, cohort)
    three = run(name, problem, cohort=cohort, engine={"clients_per_chunk": 3})
    assert one.keys() == three.keys()
    for key, value in one.items():
        np.testing.assert_allclose(three[key], value, rtol=1e-10, atol=1e-10, err_msg=key)


@pytest.mark.parametrize(("name", "problem", "cohort"), EACH_COHORT)
def test_three_ranks_give_the_bits_of_one(name: str, problem: str, cohort: str | int) -> None:
    alone = base(name, problem, cohort)
    covered: set[str] = set()
    for found in on_ranks(3, lambda communicator: run(name, problem, communicator, cohort=cohort)):
        assert all(found[key].tobytes() == alone[key].tobytes() for key in found)
        covered |= found.keys()
    assert covered == alone.keys()


@pytest.mark.parametrize(("name", "problem"), EACH)
def test_inputs_stay_and_a_second_call_gives_the_same(name: str, problem: str) -> None:
    running = engine(**sections(name, problem, rounds=2))
    list(running)
    setup, round, client = running.setup, 2, 1
    algorithm = setup.algorithm
    message, state = algorithm.downlink(running.server, round), running.group.state(client)
    data = setup.problem.client_data.data(client, round)
    draws = algorithm.draws(setup.problem.objective, client, round, len(data["y"]) if "y" in data else 1)
    inputs = [message, data, draws, *state.values(), *running.server.values()]
    before = [{key: value.clone() for key, value in params.items()} for params in inputs]
    first, second = (algorithm.client(setup.problem.objective, message, state, data, draws) for _ in range(2))
    algorithm.view(running.server, state)
    if uplink := first.uplink:
        algorithm.server(running.server, uplink, setup.server_optimizer, round)
    for params, old in zip(inputs, before, strict=True):
        assert all(torch.equal(params[key], old[key]) for key in old)
    assert first.uplink.keys() == algorithm.uplink_like(running.server).keys()
    assert first.state.keys() == state.keys()
    assert first.report == second.report
    results = ((step.uplink, *step.state.values()) for step in (first, second))
    for one, other in zip(*results, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("name", "problem"), EACH)
def test_uplinks_have_memory_of_their_own(name: str, problem: str) -> None:
    """A tensor that is sent is neither the client's state nor what the server sent."""
    running = engine(**sections(name, problem))
    setup = running.setup
    for round in range(2):
        method = setup.algorithm_at(round)
        message, state = method.downlink(running.server, round), running.group.state(0)
        data = setup.problem.client_data.data(0, round)
        draws = method.draws(setup.problem.objective, 0, round, len(data["y"]) if "y" in data else 1)
        step = method.client(setup.problem.objective, message, state, data, draws)
        uplink, new = step.uplink, step.state
        kept = {value.data_ptr() for params in (message, *state.values(), *new.values()) for value in params.values()}
        assert not kept & {value.data_ptr() for value in uplink.values() if value.numel()}
        play_round(running, round)


@pytest.mark.parametrize(("name", "problem"), EACH)
def test_gradients_and_bytes_are_counted(name: str, problem: str) -> None:
    found, running = base(name, problem), engine(**sections(name, problem))
    assert found["4 shared_gradients"] > 0
    algorithm, server = running.setup.algorithm, running.server
    num_vectors = 4 * running.setup.problem.client_data.num_clients
    of_shared = num_vectors * num_bytes(server["shared"])
    announced = {"uplink": algorithm.uplink_like(server), "downlink": algorithm.downlink(server, 0)}
    for way, vector in announced.items():
        if algorithm.branches_on_server:  # its rounds may send nothing
            assert 0 < found[f"4 {way}_bytes"] < of_shared
        elif isinstance(algorithm, Pruned) and way == "uplink":
            size = flatten(server["shared"]).element_size()
            assert found[f"4 {way}_bytes"] == 4 * size * sum(algorithm.kept)
        elif isinstance(algorithm, Gossip) and way == "uplink":
            # two neighbours of a ring each; what a tracker begins with is sent as it is
            sizes = [num_bytes(algorithm.at(round, 4).uplink_like(server)) for round in range(4)]
            assert found["4 uplink_bytes"] == 2 * num_vectors // 4 * sum(sizes)
        elif isinstance(algorithm, QueryPoints):
            # at every query point what all are told and answer there; and once each θ_i itself, and R_i
            assert found[f"4 {way}_bytes"] == of_shared * (len(algorithm.mains) + 1)
        else:
            assert found[f"4 {way}_bytes"] == num_vectors * num_bytes(vector)


def test_gradients_of_a_side_without_parameters_are_not_counted() -> None:
    for local, key in (([], "local_gradients"), (["*"], "shared_gradients")):
        running = engine(**sections("scaffold", "quadratic") | {"problem": {**QUADRATIC, "split": {"local": local}}})
        costs = list(running)[-1].costs
        assert costs.pop(key) == 0
        assert costs["shared_gradients" if local == [] else "local_gradients"] == 4 * 3 * 5


@pytest.mark.parametrize(("name", "problem"), EACH)
def test_all_stages_are_scored(name: str, problem: str) -> None:
    """With a fine-tuner for the final stage, whole models are tuned where nothing is local: better than before."""
    from ppfl.engine.evaluate import score_stages

    tuner = {"name": "gradient_descent", "steps": 3, "lr": "theory" if problem == "quadratic" else 0.1}
    evaluate = {"every": 100, "tuned": {"epochs": 1, "fine_tuner": tuner}}
    running = engine(**sections(name, problem, rounds=2, evaluate=evaluate))
    list(running)
    stages = score_stages([running])[0].scores
    assert list(stages) == ["global", "personal", "tuned"]
    metric = "loss" if problem == "quadratic" else "test_loss"
    assert all(np.isfinite(scores[metric]).all() for scores in stages.values())
    assert stages["tuned"][metric].mean() < stages["global"][metric].mean()
