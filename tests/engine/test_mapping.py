"""Which mapping serves a run, and that clients as lanes have the bits that they have one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.algorithms.ffgg import FFGG
from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.engine.evaluate import score_stages
from ppfl.engine.group import ClientGroup
from ppfl.engine.lockstep import Lockstep
from ppfl.engine.mapping import laned, lanes
from ppfl.engine.mapping.batched import Batched
from ppfl.engine.mapping.choose import choose_mapping
from ppfl.engine.mapping.joint import Joint
from ppfl.engine.mapping.laned import Laned
from ppfl.engine.mapping.loop import Loop
from ppfl.engine.setup import Setup
from ppfl.engine.synchronous import Synchronous
from ppfl.interfaces.pruning import Pruned
from ppfl.runs.assemble import build
from tests import examples
from tests.algorithms.cases import NAMES, QUADRATIC, sections
from tests.engine.build import config, engine, ffgg
from tests.engine.each_run import scores_of_each
from tests.ranks import on_ranks
from tests.supervised_problems import CNN, CONFIG

MEDIAN = {"name": "median"}
SMALL = {**QUADRATIC, "clients": 4}
TUNED = {"evaluate": {"every": 2, "tuned": {"epochs": 2}}}
FINE_TUNERS: dict[str, dict[str, Any]] = {
    "exact": {"name": "exact"},
    "redrawn": {"name": "conjugate_gradient", "steps": 3, "start": "redraw"},
    "from zero": {"name": "gradient_descent", "steps": 2, "lr": "theory", "start": "zero"},
    "adam": {"name": "adam", "lr": 0.01, "epochs": 2, "batch_size": "all"},
}


def one_by_one(running: Synchronous) -> Synchronous:
    """Have the clients of a run that has not begun work one after the other."""
    setup = running.setup
    running.group = ClientGroup(setup, setup.problem.objective.init_shared(), Loop(setup))
    return running


_CLIENT = "client "


def fingerprint(running: Synchronous) -> list[Any]:
    """Run to the end; return everything but seconds."""
    found: list[Any] = [
        (scored.round, name, np.asarray(value).tobytes())
        for scored in running
        for name, value in {**scored.metrics, **scored.costs}.items()
        if "seconds" not in name
    ]
    states = {client: running.group.state(client) for client in running.group.clients}
    for who, state in {
        "server": running.server,
        **{_CLIENT + str(client): of for client, of in states.items()},
    }.items():
        found += [(who, group, name, v.numpy().tobytes()) for group, of in state.items() for name, v in of.items()]
    stages = score_stages([running])[0]
    found += [(stage, {name: v.tobytes() for name, v in of.items()}) for stage, of in stages.scores.items()]
    return [*found, [(cost.shared_gradients, cost.local_gradients) for cost in stages.costs.values()], running.status]


def _is_of_client(one: Any) -> bool:
    return isinstance(one[0], str) and one[0].startswith(_CLIENT)


def assert_lanes_have_the_bits_of_a_loop(**document: Any) -> None:
    wanted = fingerprint(one_by_one(engine(**document)))

    def on_rank(communicator: Communicator) -> list[Any]:
        running = engine(communicator, **document)
        assert isinstance(running.group.mapping, Laned)
        return fingerprint(running)

    assert fingerprint(engine(**document)) == wanted
    alone = on_ranks(1, on_rank)[0]
    assert alone == wanted
    of_two = on_ranks(2, on_rank)
    for found in of_two:  # each of which knows its own clients alone
        assert [one for one in found if not _is_of_client(one)] == [one for one in wanted if not _is_of_client(one)]


PRUNED = [name for name in NAMES if issubclass(examples.kind("algorithms", name), Pruned)]
"""The largest coordinates are found one client after another."""


@pytest.mark.parametrize("name", PRUNED)
def test_clients_that_prune_are_no_lanes(name: str) -> None:
    running = engine(**{**sections(name, "quadratic"), "rounds": 2})
    assert not isinstance(running.group.mapping, Laned)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PRUNED])
def test_every_method(name: str) -> None:
    assert_lanes_have_the_bits_of_a_loop(**{**sections(name, "quadratic"), **TUNED, "rounds": 5})


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("tuner", FINE_TUNERS.values(), ids=FINE_TUNERS)
def test_every_kind_of_fine_tuning(tuner: dict[str, Any], precision: str) -> None:
    method = ffgg(tuner, 0.01)
    assert_lanes_have_the_bits_of_a_loop(problem=SMALL, algorithm=method, precision=precision, **TUNED, rounds=5)


@pytest.mark.parametrize(
    "sections",
    [
        {"aggregator": {"name": "median"}},
        {"byzantine": {"attack": {"name": "sign_flip"}, "clients": 1, "placement": "beside"}},
        {"byzantine": {"attack": {"name": "sign_flip"}, "clients": 1, "placement": "among"}, "aggregator": MEDIAN},
        {"weights": "samples"},
        {"strategic": {"clients": 2, "scale": -2.0, "noise": 0.5}},
        {"evaluate": {"every": 2, "reports": ["squared_norm"]}},
    ],
    ids=str,
)
def test_every_exchange(sections: dict[str, Any]) -> None:
    document = {"problem": SMALL, "algorithm": ffgg({"name": "exact"}), **TUNED, "rounds": 5, **sections}
    assert_lanes_have_the_bits_of_a_loop(**document)


@pytest.mark.parametrize(
    "sections",
    [
        {"cohort": 2},
        {"algorithm": ffgg({"name": "lbfgs", "steps": 2}, 0.01)},
        {"engine": {"client_state": "file"}},
        {"asynchronous": {"engine": "virtual"}, "compute_times": {"name": "fixed"}},
    ],
    ids=str,
)
def test_where_lanes_cannot_serve_clients_work_one_after_the_other(sections: dict[str, Any]) -> None:
    """An automatic gradient is no function of lanes, among them."""
    document = {"problem": SMALL, "algorithm": ffgg({"name": "exact"}), **sections}
    assert isinstance(choose_mapping(build(config(**document), SoloCommunicator())), Loop)


def test_chunks_are_joint_or_vectorized() -> None:
    network = {**CONFIG, "model": {**CNN, "channels": [4, 4], "normalization": "none"}}
    gd = {"name": "gradient_descent", "steps": 1, "lr": 0.1}
    run = {"problem": network, "algorithm": ffgg(gd, 0.1), "precision": "float32", "engine": {"clients_per_chunk": 2}}
    assert isinstance(engine(**run).group.mapping, Joint)
    assert isinstance(engine(**{**run, "aggregator": {"name": "median"}}).group.mapping, Batched)


def test_a_method_that_gives_lanes_other_bits_is_not_given_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that lanes know, wrongly: seen in the first round of one client, and left to the loop."""
    monkeypatch.setattr(laned, "_known", {})
    total = lanes.Lanes.__add__
    monkeypatch.setattr(
        lanes.Lanes, "__add__", lambda self, other: lanes.Lanes(total(self, other).values * (1 + 2**-50))
    )
    gd = {"name": "gradient_descent", "steps": 3, "lr": 0.01}
    assert isinstance(engine(problem=SMALL, algorithm=ffgg(gd, 0.01)).group.mapping, Loop)


class Late(FFGG):
    """FFGG that takes an automatic gradient from the third round on, which is no function of lanes."""

    def draws(self, objective: Any, client: int, round: int, num_samples: int) -> Any:
        return {
            **super().draws(objective, client, round, num_samples),
            **({"late": torch.zeros(0)} if round > 1 else {}),
        }

    def client(self, objective: Any, message: Any, state: Any, data: Any, draws: Any) -> Any:
        step = super().client(objective, message, state, data, draws)
        if "late" not in draws:
            return step
        gradient = torch.func.grad(lambda theta: objective.loss(theta, step.state["local"], data))(message)
        return replace(step, uplink=gradient)


def test_what_lanes_cannot_do_in_a_later_round_is_done_one_by_one() -> None:
    def late() -> Synchronous:
        setup = build(config(problem=SMALL, algorithm=ffgg({"name": "exact"}), **TUNED), SoloCommunicator())
        return Synchronous(replace(setup, algorithm=Late(**dict(setup.algorithm))))

    assert isinstance(late().group.mapping, Laned)
    assert fingerprint(late()) == fingerprint(one_by_one(late()))


def test_several_runs_go_on_one_by_one_where_lanes_cannot() -> None:
    def late(seed: int) -> Setup:
        small = {"problem": SMALL, "algorithm": ffgg({"name": "exact"}), **TUNED, "seed": seed}
        setup = build(config(**small), SoloCommunicator())
        return replace(setup, algorithm=Late(**dict(setup.algorithm)))

    together = Lockstep([late(0), late(1)])
    found = [[scored.metrics["loss"] for scored in of_run] for of_run in scores_of_each(together)]
    alone = [[scored.metrics["loss"] for scored in one_by_one(Synchronous(late(seed)))] for seed in (0, 1)]
    assert found == alone


def test_a_final_stage_that_lanes_cannot_do_is_done_one_by_one() -> None:
    tuner = {"name": "lbfgs", "steps": 2}
    document = {
        "problem": SMALL, "algorithm": ffgg({"name": "exact"}), "rounds": 4,
        "evaluate": {"every": 2, "tuned": {"epochs": 1, "fine_tuner": tuner}},
    }  # fmt: skip
    running = engine(**document)
    assert isinstance(running.group.mapping, Laned)
    assert fingerprint(running) == fingerprint(one_by_one(engine(**document)))


def test_lanes_are_one_call_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one a client, which would have the same bits."""
    calls: list[int] = []
    running = engine(problem=SMALL, algorithm=ffgg({"name": "exact"}), rounds=3)
    client = FFGG.client
    monkeypatch.setattr(FFGG, "client", lambda *arguments: calls.append(1) or client(*arguments))
    list(running)
    assert len(calls) == 3
    del calls[:]
    list(one_by_one(engine(problem=SMALL, algorithm=ffgg({"name": "exact"}), rounds=3)))
    assert len(calls) >= 3 * SMALL["clients"]
