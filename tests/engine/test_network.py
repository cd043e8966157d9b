"""Rounds on a network with links: how long they last, who is heard, and what becomes of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.agree import SharedUserError
from ppfl.engine.choose import open_engine
from ppfl.engine.setup import Setup
from ppfl.interfaces.network import Fate
from ppfl.runs.assemble import build
from tests.engine.build import config, ffgg

SMALL: dict[str, Any] = {
    "name": "quadratic", "generator": "comparison", "zeta": 0, "rows": 40, "shared_dimension": 6, "local_dimension": 4
}  # fmt: skip
CLIENTS = 8
WARM: dict[str, Any] = {"name": "gradient_descent", "steps": 2, "lr": 0.01}
LINKS: dict[str, Any] = {
    "name": "constant", "down_bits_per_second": 1e4, "up_bits_per_second": 1e3, "latency_seconds": 0.25
}  # fmt: skip
LOSSY: dict[str, Any] = {"availability": 0.7, "drop_out": 0.2, "timeout_seconds": 2.0}


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


def test_who_is_lost_is_left_out_of_the_mean_and_keeps_what_it_learned() -> None:
    """Round by round by hand: the mean is over who arrived, all who were asked work, and a silent round leaves θ."""
    setup = built(network={**LINKS, **LOSSY, "least_arrivals": 5}, rounds=12, cohort=7)
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
    assert sent < 12 * 7  # now and then fewer than a cohort are there
    np.testing.assert_allclose(engine.server["shared"]["theta"], theta, rtol=1e-12)
    for client in range(CLIENTS):
        found = engine.group.state(client)["local"]
        assert all(np.allclose(found[name], value, rtol=1e-12) for name, value in local[client].items())
    assert last.costs["uplink_bytes"] == 48 * (sent - lost)
    assert last.costs["downlink_bytes"] == 48 * sent


def test_bandwidth_0_is_refused_where_something_is_sent() -> None:
    with pytest.raises(SharedUserError, match=r"network\.up_bits_per_second: client 3 sends 48 bytes and has"):
        built(network={**LINKS, "up_bits_per_second": [1.0, 1.0, 1.0, 0.0, *[1.0] * 4]})
