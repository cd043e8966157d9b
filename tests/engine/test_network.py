"""Rounds on a network with links: how long they last, who is heard, and what becomes of the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.compute_times.fixed import Fixed
from ppfl.config.errors import ConfigError
from ppfl.core.agree import SharedUserError
from ppfl.core.errors import UserError
from ppfl.engine.choose import open_engine
from ppfl.engine.clock import Clock, gossip_round_of
from ppfl.engine.setup import Setup
from ppfl.engine.virtual_clock import VirtualClock
from ppfl.interfaces.network import Fate
from ppfl.links.constant import Constant
from ppfl.runs.assemble import build
from tests import examples
from tests.engine.build import config, ffgg
from tests.engine.test_interrupted import whole_and_pieces

SMALL: dict[str, Any] = {
    "name": "quadratic", "generator": "comparison", "zeta": 0, "rows": 40, "shared_dimension": 6, "local_dimension": 4
}  # fmt: skip
CLIENTS = 8
WARM: dict[str, Any] = {"name": "gradient_descent", "steps": 2, "lr": 0.01}
LINKS: dict[str, Any] = {
    "name": "constant", "down_bits_per_second": 1e4, "up_bits_per_second": 1e3, "latency_seconds": 0.25
}  # fmt: skip
LOSSY: dict[str, Any] = {"availability": 0.7, "drop_out": 0.2, "timeout_seconds": 2.0}


NEIGHBOURS = {"algorithm": {"name": "dsgd", "lr": 0.01}, "gossip": {"graph": {"name": "ring"}}}
WIRELESS = {
    "name": "wireless", "bandwidth_hz": 1e5, "rates": 4.0, "computing_seconds": 0.5, "personal_seconds": 0.1,
}  # fmt: skip


def built(**sections: Any) -> Setup:
    evaluate = {"every": 1, "tuned": {"epochs": 0}}
    document = {"problem": SMALL, "algorithm": ffgg(WARM, 0.01), "network": LINKS, "rounds": 6, "evaluate": evaluate}
    return build(config(**{**document, **sections}), SoloCommunicator())


def series(name: str, **sections: Any) -> list[float]:
    return [float(scored.costs[name]) for scored in open_engine(built(**sections))]


def test_a_round_lasts_as_long_as_its_messages_and_its_computing() -> None:
    """48 bytes each way: 6 numbers of 8 bytes."""
    found = series("virtual_seconds")
    of_round = 2 * 0.25 + 48 * 8 / 1e4 + 48 * 8 / 1e3
    np.testing.assert_allclose(found, of_round * np.arange(7), rtol=1e-12)
    with_work = series("virtual_seconds", compute_times={"name": "fixed", "mean_seconds": 3.0})
    np.testing.assert_allclose(with_work, (of_round + 3.0) * np.arange(7), rtol=1e-12)


@pytest.mark.parametrize(
    "sections",
    [
        {"cohort": 7, "network": {**LINKS, **LOSSY, "least_arrivals": 5}},
        {"network": {**LINKS, "drop_out": 0.4, "timeout_seconds": 2.0, "least_arrivals": 5}},
        {"network": {**LINKS, **LOSSY, "least_arrivals": 5}, "engine": {"clients_per_chunk": 3}},
    ],
    ids=["one by one", "lanes", "chunks"],
)
def test_who_is_lost_is_left_out_of_the_mean_and_keeps_what_it_learned(sections: dict[str, Any]) -> None:
    """Round by round by hand: the mean is over who arrived, all who were asked work, and a silent round leaves θ."""
    setup = built(rounds=12, **sections)
    network, seed, algorithm = setup.network, setup.problem.objective.seed, setup.algorithm
    assert network is not None
    objective, data = setup.problem.objective, setup.problem.client_data
    theta = objective.init_shared()["theta"].clone()
    local = {client: objective.init_local(client) for client in range(CLIENTS)}
    lost = silent = sent = 0
    for round in range(12):
        cohort = sorted(setup.cohort(round))
        assert all(network.is_there(seed, client, round) for client in cohort)
        arrived = []
        for client in cohort:
            step = algorithm.client(
                objective, {"theta": theta}, {"local": local[client]}, data.data(client, round),
                algorithm.draws(objective, client, round, 1),
            )  # fmt: skip
            local[client] = step.state["local"]
            if network.fate(seed, client, round, 1.0) == Fate.ARRIVED:
                arrived.append(step.uplink["theta"])
        lost, sent = lost + len(cohort) - len(arrived), sent + len(cohort)
        if len(arrived) < 5:
            silent += 1
        else:
            theta = theta - 0.01 * sum(arrived) / len(arrived)
    engine = open_engine(setup)
    last = list(engine)[-1]
    assert (last.costs["lost_uplinks"], last.costs["silent_rounds"]) == (lost, silent)
    assert 0 < silent < 12
    assert (sent == 12 * CLIENTS) == ("availability" not in sections["network"])
    np.testing.assert_allclose(engine.server["shared"]["theta"], theta, rtol=1e-12)
    for client in range(CLIENTS):
        found = engine.group.state(client)["local"]
        assert all(np.allclose(found[name], value, rtol=1e-12) for name, value in local[client].items())
    assert last.costs["uplink_bytes"] == 48 * (sent - lost)
    assert last.costs["downlink_bytes"] == 48 * sent


def test_bandwidth_0_is_refused_where_something_is_sent() -> None:
    with pytest.raises(SharedUserError, match=r"network\.up_bits_per_second: client 3 sends 48 bytes and has"):
        built(network={**LINKS, "up_bits_per_second": [1.0, 1.0, 1.0, 0.0, *[1.0] * 4]})


CLOCK: dict[str, Any] = {
    "asynchronous": {"engine": "virtual", "concurrency": 5}, "compute_times": {"name": "exponential"}, "rounds": 40,
}  # fmt: skip


WALL = {"seconds": 0.0, "communication_seconds": 0.0}


def tensors_of(engine: Any) -> dict[str, bytes]:
    found = {f"shared/{name}": value.numpy().tobytes() for name, value in engine.server["shared"].items()}
    for client in engine.group.clients:
        state = engine.group.state(client)["local"]
        found |= {f"{client}/{name}": value.numpy().tobytes() for name, value in state.items()}
    return found


def test_asynchronous_jobs_take_their_messages_and_are_lost_and_replayed() -> None:
    """An event loop of its own finds the same arrivals; the log, replayed without network and times, the same bits."""
    lossy = {**LINKS, "availability": 0.8, "drop_out": 0.2, "timeout_seconds": 2.5}
    setup = built(network=lossy, **CLOCK)
    engine = open_engine(setup)
    scored = list(engine)
    log, losses = engine.arrivals.arrays(), engine.losses.arrays()
    assert set(losses["fate"]) == {Fate.DROPPED, Fate.LATE, Fate.AWAY}
    of_messages = 2 * 0.25 + 48 * 8 / 1e4 + 48 * 8 / 1e3
    assert (log["turnaround_seconds"] > of_messages).all()
    assert (log["turnaround_seconds"] <= 2.5).all()
    assert (np.diff(log["seconds"]) >= 0).all()
    assert scored[-1].costs["lost_uplinks"] == (losses["fate"] != Fate.AWAY).sum()
    asked = len(log["client"]) + (losses["fate"] != Fate.AWAY).sum()
    assert scored[-1].costs["downlink_bytes"] == 48 * asked
    assert scored[-1].costs["uplink_bytes"] == 48 * len(log["client"])
    replayed = open_engine(replace(setup, network=None, compute_times=None, replay=log, replayed_losses=losses))
    again = list(replayed)
    assert tensors_of(replayed) == tensors_of(engine)
    for of, values in ((replayed.arrivals, log), (replayed.losses, losses)):
        assert all(np.array_equal(found, values[name]) for name, found in of.arrays().items())
    for one, other in zip(again, scored, strict=True):
        assert all(np.array_equal(value, other.metrics[name]) for name, value in one.metrics.items())
        assert {**one.costs, **WALL} == {**other.costs, **WALL}


def test_lost_jobs_have_been_done_and_arrivals_alone_move_theta() -> None:
    """Job after job by hand, in the order of the logs: what is lost leaves w behind, and who was away nothing."""
    setup = built(network={**LINKS, "availability": 0.8, "drop_out": 0.4, "timeout_seconds": 2.5}, **CLOCK)
    engine = open_engine(setup)
    assert isinstance(engine, VirtualClock)
    list(engine)
    arrivals, losses = engine.arrivals.arrays(), engine.losses.arrays()
    jobs = [(position, 1, client, version, Fate.ARRIVED) for position, (client, version) in enumerate(
        zip(arrivals["client"].tolist(), arrivals["version"].tolist(), strict=True)
    )]  # fmt: skip
    names = ("arrivals", "client", "version", "fate")
    lost = zip(*(losses[name].tolist() for name in names), strict=True)
    jobs += [(position, 0, client, version, Fate(fate)) for position, client, version, fate in lost]
    objective, data, algorithm = setup.problem.objective, setup.problem.client_data, setup.algorithm
    thetas = [objective.init_shared()["theta"]]
    local = {client: objective.init_local(client) for client in range(CLIENTS)}
    number = dict.fromkeys(range(CLIENTS), 0)
    # losses before the arrival that follows them; among themselves as they were logged
    for position, _, client, version, fate in sorted(jobs, key=lambda job: job[:2]):
        if fate != Fate.AWAY:
            step = algorithm.client(
                objective, {"theta": thetas[version]}, {"local": local[client]}, data.data(client, number[client]),
                algorithm.draws(objective, client, number[client], 1),
            )  # fmt: skip
            local[client] = step.state["local"]
        if fate == Fate.ARRIVED:
            factor = engine.rules.step_factor(setup.cohort.size, position - version)
            thetas.append(thetas[-1] - 0.01 * factor * step.uplink["theta"])
        number[client] += 1
    np.testing.assert_allclose(engine.server["shared"]["theta"], thetas[-1], rtol=1e-12)
    for client in range(CLIENTS):
        found = engine.group.state(client)["local"]
        assert all(np.allclose(found[name], value, rtol=1e-12) for name, value in local[client].items())


RULE: dict[str, Any] = {
    "aggregator": {"name": "trimmed_mean", "f": 1, "before": [{"name": "nnm", "f": 1}]},
    "byzantine": {"attack": {"name": "sign_flip", "factor": 10}, "clients": 1},
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "rounds": {"cohort": 7, "rounds": 9},
    "everybody": {"rounds": 9},
    "lanes": {"network": {**LINKS, "drop_out": 0.3, "timeout_seconds": 2.0}, "rounds": 9},
    "rule": {**RULE, "rounds": 9},
    "asynchronous": CLOCK,
    "asynchronous rule": {**CLOCK, **RULE, "asynchronous": {"engine": "virtual", "buffer": 4}},
    "log-normal": {"network": {**LINKS, **LOSSY, "name": "log_normal", "jitter_seconds": 0.5}, "rounds": 9},
}


@pytest.mark.parametrize("case", CASES)
def test_other_ranks_and_goes_give_the_same_bits(tmp_path: Path, case: str) -> None:
    evaluate = {"every": 2, "tuned": {"epochs": 0}}
    document = {
        "problem": SMALL, "algorithm": ffgg(WARM, 0.01), "network": {**LINKS, **LOSSY}, "evaluate": evaluate,
        **CASES[case],
    }  # fmt: skip
    stops = (17, 30) if "asynchronous" in document else (3, 6)
    whole, pieces = whole_and_pieces(tmp_path, [(2, stops[0]), (4, stops[1]), (3, None)], **document)
    assert whole == pieces


def test_a_rule_hears_as_many_as_it_is_defined_for_or_nobody() -> None:
    """A median of means of 2f + 1 = 3; with an attacker among the clients at least one is honest."""
    setup = built(**RULE, network={**LINKS, **LOSSY, "drop_out": 0.6}, rounds=10)
    assert setup.least_arrivals == 3
    last = list(open_engine(setup))[-1]
    assert last.costs["silent_rounds"] > 0
    assert np.isfinite(float(last.metrics["loss"]))


def test_more_arrivals_than_clients_are_refused() -> None:
    refused = r"^network\.least_arrivals: 6 uplinks wanted of 5 clients a round$"
    with pytest.raises(SharedUserError, match=refused):
        built(network={**LINKS, **LOSSY, "least_arrivals": 6}, cohort=5)


def test_a_cohort_that_loses_clients_is_not_everybody() -> None:
    """What must diverge with all clients need not with other ones in each round."""
    steep = ffgg({"name": "exact"}, 1e3)
    with pytest.raises(SharedUserError, match="must diverge: with all clients"):
        built(algorithm=steep)
    built(algorithm=steep, network={**LINKS, "drop_out": 0.1, "timeout_seconds": 2.0})


def test_a_round_with_too_few_lasts_until_the_timeout() -> None:
    for one in open_engine(built(network={**LINKS, **LOSSY, "least_arrivals": 8}, rounds=8)):
        assert one.costs["virtual_seconds"] == 2.0 * one.costs["silent_rounds"] == 2.0 * one.round


@pytest.mark.parametrize(
    ("sections", "refused"),
    [
        ({"network": {**LINKS, "drop_out": 0.5}}, "network.timeout_seconds"),
        ({"network": {**LINKS, "availability": 0.5}}, "network.timeout_seconds"),
        ({"network": {**LINKS, "least_arrivals": 2}}, "network.timeout_seconds"),
        ({"network": {**LINKS, **LOSSY, "availability": 0.0}}, "network.availability"),
        ({"network": {**LINKS, **LOSSY, "availability": 1.5}}, "network.availability"),
        ({"network": {**LINKS, **LOSSY, "drop_out": 1.0}}, "network.drop_out"),
        ({"network": {**LINKS, **LOSSY}, "algorithm": examples.section("algorithms", "scaffold")}, "network"),
        ({"network": {**LINKS, **LOSSY}, "algorithm": examples.section("algorithms", "l2gd")}, "network"),
        ({"network": {**LINKS, **LOSSY}, **NEIGHBOURS}, "network.availability"),
        ({"network": WIRELESS, **NEIGHBOURS}, "network"),
        ({"asynchronous": {"engine": "messages"}, "compute_times": None}, "network"),
        ({**CLOCK, "network": {**LINKS, **LOSSY, "least_arrivals": 2}}, "network.least_arrivals"),
    ],
)
def test_what_does_not_go_together_is_refused(sections: dict[str, Any], refused: str) -> None:
    with pytest.raises(ConfigError) as error:
        built(**sections)
    assert refused in str(error.value)


def write_trace(path: Path, **arrays: Any) -> dict[str, Any]:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return {"name": "trace", "file": str(path)}


def test_a_trace_says_the_bandwidth_of_each_round(tmp_path: Path) -> None:
    rates = np.random.default_rng(0).uniform(10.0, 100.0, (CLIENTS, 6))
    traced = write_trace(tmp_path / "rates.h5", up_bits_per_second=rates)
    wanted = np.concatenate([[0.0], np.cumsum(48 * 8 / rates.min(axis=0))])
    np.testing.assert_allclose(series("virtual_seconds", network=traced), wanted, rtol=1e-12)
    again = series("virtual_seconds", network={**traced, "repeats": True}, rounds=12)
    np.testing.assert_allclose(again[-1], 2 * wanted[-1], rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        (np.ones((CLIENTS, 5)), r"network\.file: rates\.h5, up_bits_per_second: 5 entries, and 6 rounds asked for"),
        (np.ones((3, 6)), r"3 rows for 8 clients"),
        (np.ones(6), r"no table of numbers"),
        (np.full((CLIENTS, 6), -1.0), r"client 0 has -1 at entry 0; allowed are numbers above 0"),
        (np.zeros((CLIENTS, 6)), r"client 0 has 0 at entry 0"),
        (np.full((CLIENTS, 6), np.nan), r"client 0 has nan at entry 0"),
    ],
)
def test_traces_that_do_not_fit_are_refused(tmp_path: Path, values: Any, refused: str) -> None:
    traced = write_trace(tmp_path / "rates.h5", up_bits_per_second=values)
    with pytest.raises(UserError, match=refused):
        built(network=traced)


def test_a_trace_that_ends_during_an_asynchronous_run_is_refused_then(tmp_path: Path) -> None:
    traced = write_trace(tmp_path / "rates.h5", up_bits_per_second=np.full((CLIENTS, 2), 1e4))
    with pytest.raises(UserError, match=r"2 entries, and job 3 of client"):
        list(open_engine(built(network=traced, **CLOCK)))


def test_nodes_of_a_graph_wait_for_their_slowest_neighbour() -> None:
    """A path 0 – 1 – 2: 100 bytes an edge; node 2 sends slowly, and node 1 hears of it last."""
    links = Constant(
        name="constant", up_bits_per_second=(800.0, 800.0, 80.0), down_bits_per_second=1600.0, latency_seconds=0.5
    )
    clock = Clock(0, Fixed(name="fixed", mean_seconds=2.0), links)
    found = gossip_round_of(clock, [[1], [0, 2], [1]], 100, round=0)
    assert found.seconds == (2.0 + 0.5 + 10.0) + (0.5 + 2 * 0.5)
    assert found.is_heard
    assert found.num_lost == 0
