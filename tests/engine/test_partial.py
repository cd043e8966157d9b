"""Each client is sent something of its own, and coordinates have weights: plug-ins of tests/examples/partial."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.algorithms.ffgg import FFGG
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import Config
from ppfl.core.agree import SharedUserError
from ppfl.core.communicator import Communicator
from ppfl.core.params import flatten
from ppfl.engine.choose import AnyEngine, open_engine
from ppfl.engine.ledger import Scored
from ppfl.engine.lockstep import Lockstep
from ppfl.engine.mapping import laned
from ppfl.engine.mapping.batched import Batched
from ppfl.engine.mapping.joint import Joint
from ppfl.engine.mapping.laned import Laned
from ppfl.engine.participants import Downlink
from ppfl.engine.synchronous import Synchronous
from ppfl.runs.assemble import build
from tests.algorithms.reference import Bowl, bowl
from tests.engine.build import config
from tests.engine.each_run import scores_of_each
from tests.engine.interrupted import go_on
from tests.engine.test_mapping import fingerprint, one_by_one
from tests.numpy_reference import Array, random_clients, write_clients
from tests.ranks import on_ranks

PLUG_INS = str(Path(__file__).parents[1] / "examples" / "partial")
NUM_CLIENTS, D = 5, 6
LR, STEPS, SHARES, ROUNDS = 0.2, 2, (0.3, 1.0, 0.5), 7
CLOCK: dict[str, Any] = {"asynchronous": {"engine": "virtual"}, "compute_times": {"name": "exponential"}}
MESSAGES: dict[str, Any] = {"asynchronous": {"engine": "messages"}}


def document(folder: Path, name: str = "partial_training", **sections: Any) -> dict[str, Any]:
    """Return a run of a plug-in on clients in a file, everything shared but w, which stays at its start."""
    path = folder / "clients.h5"
    if not path.exists():
        write_clients(path, random_clients(NUM_CLIENTS, shared=D, local=2))
    return {
        "problem": {"name": "quadratic", "file": str(path)},
        "algorithm": {"name": name, "lr": LR, "local_steps": STEPS, "shares": list(SHARES)},
        "rounds": ROUNDS, "plugins": [PLUG_INS], "evaluate": {"every": 2, "tuned": {"epochs": 0}}, **sections,
    }  # fmt: skip


def run(checked: Config, communicator: Communicator | None = None) -> tuple[AnyEngine, list[Scored]]:
    running = open_engine(build(checked, communicator or SoloCommunicator()))
    return running, list(running)


def told(running: AnyEngine, scored: list[Scored]) -> list[Any]:
    """Everything but seconds, bit for bit."""
    found: list[Any] = [
        (one.round, name, np.asarray(value).tobytes())
        for one in scored
        for name, value in {**one.metrics, **one.costs}.items()
        if not name.endswith("seconds") or name == "virtual_seconds"
    ]
    return [*found, flatten(running.server["shared"]).numpy().tobytes()]


def coordinates(client: int, round: int) -> list[int]:
    return [(round + k) % D for k in range(int(np.ceil(SHARES[client % len(SHARES)] * D)))]


def by_hand(bowls: list[Bowl], theta: Array, w: Array, cohorts: list[frozenset[int]], weights: list[float]) -> Array:
    """Partial training from the formulas."""
    for round, cohort in enumerate(cohorts):
        total, count = np.zeros(D), np.zeros(D)
        for m in sorted(cohort):
            has = np.isin(np.arange(D), coordinates(m, round))
            own = np.where(has, theta, 0.0)
            for _ in range(STEPS):
                own = own - LR * has * bowls[m].gradient(np.concatenate([own, w[m]]))[:D]
            total += weights[m] * np.where(has, theta - own, 0.0)
            count += weights[m] * has
        theta = theta - np.divide(total, count, out=np.zeros(D), where=count > 0)
    return theta


@pytest.mark.parametrize("sections", [{}, {"cohort": 2}, {"weights": "uniform", "cohort": 3}], ids=str)
def test_partial_training_is_what_its_formulas_say(tmp_path: Path, sections: dict[str, Any]) -> None:
    """Also where some coordinates have no client in a round."""
    running = open_engine(build(config(**document(tmp_path, **sections)), SoloCommunicator()))
    setup, theta = running.setup, flatten(running.server["shared"]).numpy()
    w = np.stack([flatten(running.group.state(m)["local"]).numpy() for m in range(NUM_CLIENTS)])
    cohorts = [setup.cohort(round) for round in range(ROUNDS)]
    bowls = [bowl(client) for client in random_clients(NUM_CLIENTS, shared=D, local=2)]
    wanted = by_hand(bowls, theta, w, cohorts, [1.0] * NUM_CLIENTS)
    scored = list(running)
    np.testing.assert_allclose(flatten(running.server["shared"]).numpy(), wanted, rtol=1e-12, atol=1e-12)
    num_sent = sum(len(coordinates(m, round)) for round, cohort in enumerate(cohorts) for m in cohort)
    assert scored[-1].costs["uplink_bytes"] == scored[-1].costs["downlink_bytes"] == 8 * num_sent


def test_an_average_counts_who_has_a_coordinate(tmp_path: Path) -> None:
    """After one round coordinate j has moved by the mean of those that have it: to rounding."""
    running = open_engine(build(config(**document(tmp_path, rounds=1)), SoloCommunicator()))
    setup, before = running.setup, running.server["shared"]["theta"].clone()
    alone = torch.zeros(NUM_CLIENTS, D, dtype=torch.float64)
    for m in range(NUM_CLIENTS):
        message, data = setup.algorithm.downlink(running.server, 0, m), setup.problem.client_data.data(m, 0)
        assert message is not None
        assert message["theta"].shape == (len(coordinates(m, 0)),)
        draws = setup.algorithm.draws(setup.problem.objective, m, 0, 1)
        alone[m] = setup.algorithm.client(setup.problem.objective, message, running.group.state(m), data, draws).uplink[
            "theta"
        ]
    list(running)
    for j in range(D):
        own = [alone[m, j] for m in range(NUM_CLIENTS) if j in coordinates(m, 0)]
        mean = float(sum(map(Fraction, map(float, own))) / len(own))
        assert float(running.server["shared"]["theta"][j]) == pytest.approx(float(before[j]) - mean, rel=1e-15)


@pytest.mark.parametrize("name", ["partial_training", "partial_news"])
@pytest.mark.parametrize("sections", [{}, {"cohort": 3}, {"engine": {"client_state": "file"}}], ids=str)
def test_ranks_do_not_change_a_bit_in_rounds(tmp_path: Path, name: str, sections: dict[str, Any]) -> None:
    """Of five ranks some have no client of a cohort."""
    given = config(**document(tmp_path, name, **sections))
    wanted = told(*run(given))
    for size in (1, 2, 5):
        for found in on_ranks(size, lambda communicator: told(*run(given, communicator))):
            assert found == wanted


def test_chunks_give_what_single_clients_give(tmp_path: Path) -> None:
    """And on two ranks the same bits as on one."""
    for name in ("partial_training", "partial_news"):
        given = document(tmp_path, name)
        given["algorithm"]["shares"] = [0.5]
        alone = run(config(**given))[0].server["shared"]["theta"]
        given["engine"] = {"clients_per_chunk": 2}
        checked = config(**given)
        running, scored = run(checked)
        assert isinstance(running.group.mapping, Batched)
        torch.testing.assert_close(running.server["shared"]["theta"], alone, rtol=1e-12, atol=1e-12)
        for found in on_ranks(2, lambda communicator, checked=checked: told(*run(checked, communicator))):
            assert found == told(running, scored)


@pytest.mark.parametrize("name", ["partial_training", "partial_news"])
def test_clients_that_are_sent_different_lengths_go_in_groups(tmp_path: Path, name: str) -> None:
    alone, _ = run(config(**document(tmp_path, name)))
    running, _ = run(config(**document(tmp_path, name, engine={"clients_per_chunk": 2})))
    assert isinstance(running.group.mapping, Batched)
    for name, value in alone.server["shared"].items():
        torch.testing.assert_close(running.server["shared"][name], value, rtol=1e-12, atol=1e-12)


def test_the_virtual_clock_sends_each_client_its_own(tmp_path: Path) -> None:
    """The same bits on three ranks, and after a stop with jobs on their way on other ranks."""
    given = config(**{**document(tmp_path, "partial_news"), **CLOCK, "rounds": 30})
    wanted = told(*run(given))
    for found in on_ranks(3, lambda communicator: told(*run(given, communicator))):
        assert found == wanted

    def stopped(communicator: Communicator) -> list[Scored]:
        return go_on(communicator, tmp_path, 11, checked=given)[1]

    before = on_ranks(2, stopped)[0]
    engine, after = go_on(SoloCommunicator(), tmp_path, None, checked=given)
    assert told(engine, before + after) == wanted


def test_bytes_of_arrivals_are_those_that_were_sent(tmp_path: Path) -> None:
    for more in (CLOCK, MESSAGES):
        given = config(**{**document(tmp_path, "partial_news"), **more, "rounds": 20})

        def bytes_of(communicator: Communicator, given: Config = given) -> tuple[float, int]:
            running, scored = run(given, communicator)
            assert not isinstance(running, Synchronous)
            # so many values, and where they begin
            sizes = [8 * (len(coordinates(m, 0)) + 1) for m in running.arrivals.arrays()["client"]]
            return scored[-1].costs["downlink_bytes"], sum(sizes)

        for size in (1, 2):
            counted, wanted = on_ranks(size, bytes_of)[0]
            assert counted == wanted


def test_messages_are_replayed_by_the_clock(tmp_path: Path) -> None:
    """What travelled between ranks is what each client was to be sent."""
    document_of = {**document(tmp_path, "partial_news"), "rounds": 40}
    given = config(**{**document_of, **MESSAGES})

    def by_messages(communicator: Communicator) -> tuple[Any, bytes]:
        running, _ = run(given, communicator)
        assert not isinstance(running, Synchronous)
        return running.arrivals.arrays(), flatten(running.server["shared"]).numpy().tobytes()

    log, wanted = on_ranks(2, by_messages)[0]
    setup = build(config(**{**document_of, **CLOCK}), SoloCommunicator())
    replayed = open_engine(replace(setup, compute_times=None, replay=log))
    list(replayed)
    assert flatten(replayed.server["shared"]).numpy().tobytes() == wanted


class ToEach(FFGG):
    """FFGG whose clients are sent θ a little off, each in its own way: functions that lanes know."""

    def downlink(self, server: Any, round: int, client: int | None = None) -> Any:
        return None if client is None else {name: x + 0.01 * client for name, x in server["shared"].items()}


def to_each(seed: int = 0, **changes: Any) -> Any:
    small = {"name": "quadratic", "generator": "comparison", "clients": 4, "rows": 20}
    setup = build(config(problem=small, rounds=4, seed=seed, evaluate={"every": 2}), SoloCommunicator())
    return replace(setup, algorithm=ToEach(**dict(setup.algorithm)), **changes)


def test_lanes_are_sent_each_its_own() -> None:
    assert isinstance(Synchronous(to_each()).group.mapping, Laned)
    assert fingerprint(Synchronous(to_each())) == fingerprint(one_by_one(Synchronous(to_each())))
    scores = scores_of_each(Lockstep([to_each(0), to_each(1)]))
    together = [[scored.metrics["loss"] for scored in of_run] for of_run in scores]
    assert together == [[one.metrics["loss"] for one in one_by_one(Synchronous(to_each(seed)))] for seed in (0, 1)]


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SharedUserError, match=r"^algorithm.name: 'partial_training' weighs coordinates"):
        run(
            config(
                **document(tmp_path, byzantine={"attack": {"name": "sign_flip"}, "clients": 1, "placement": "beside"})
            )
        )
    setup = to_each()
    with pytest.raises(TypeError, match="adds clients up"):
        Joint(setup)(Downlink(setup.algorithm, Synchronous(setup).server, 0), range(2), [0, 1], {}, 0)


def test_a_message_to_all_is_made_once_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    def downlink(self: FFGG, server: Any, round: int, client: int | None = None) -> Any:
        asked.append(client)
        return server["shared"]

    monkeypatch.setattr(laned, "_known", {})
    monkeypatch.setattr(FFGG, "downlink", downlink)
    small = {"name": "quadratic", "generator": "comparison", "clients": 4, "rows": 20}
    list(one_by_one(Synchronous(build(config(problem=small, rounds=3), SoloCommunicator()))))
    assert asked == [None] * len(asked)
    assert len(asked) == 3 + 1  # whether lanes serve is tried in the first round
