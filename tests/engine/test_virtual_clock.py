"""Asynchronous runs by the virtual clock: an event loop written by hand, identities, ranks, replay, refusals."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.core.agree import SharedUserError
from ppfl.engine.choose import open_engine
from ppfl.engine.virtual_clock import VirtualClock
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests import examples
from tests.algorithms import cases
from tests.engine.build import COMPARISON, EXACT, config, ffgg
from tests.numpy_reference import Array, Client, best_local, operator, random_clients, shared_gradient, write_clients
from tests.ranks import on_ranks

SMALL: dict[str, Any] = {
    **COMPARISON,
    "zeta": 1,
    "clients": 7,
    "rows": 60,
    "shared_dimension": 10,
    "local_dimension": 3,
}
COMMON = {**COMPARISON, "targets": "common"}
EXPONENTIAL = {"name": "exponential"}
STRAGGLER = {"name": "fixed", "stragglers": 1}
CG = {"name": "conjugate_gradient", "steps": 2, "start": "redraw"}
L2GD = {"name": "l2gd", "lr": 0.1, "penalty": 1.0, "probability": 0.5}
ASYNCHRONOUS = [name for name in cases.NAMES if not examples.kind("algorithms", name).needs_rounds]
WARM = {"name": "gradient_descent", "steps": 2, "lr": "theory"}
TIMING = {"seconds", "communication_seconds"}


def clock(communicator: Any = None, times: Any = EXPONENTIAL, rules: Any = None, **sections: Any) -> VirtualClock:
    """Return an engine that has run to its end; `trail` has its scores."""
    document = {"problem": SMALL, "rounds": 60, "compute_times": times, **sections}
    document["asynchronous"] = {"engine": "virtual", **(rules or {})}
    engine = open_engine(build(config(**document), communicator or SoloCommunicator()))
    assert isinstance(engine, VirtualClock)
    engine.trail = list(engine)  # type: ignore[attr-defined]
    return engine


def theta(engine: Any) -> Array:
    array: Array = engine.server["shared"]["theta"].numpy()
    return array


def locals_of(engine: Any) -> bytes:
    return b"".join(engine.group.state(client)["local"]["w"].numpy().tobytes() for client in engine.group.clients)


class EventLoop:
    """Asynchronous FFGG once more, in plain NumPy: one list of jobs, one rule after the other.

    `schedule` gives the factor of a step of the server, `tune` w of a client at a θ of some version; exact by default.
    `combine` makes one vector of those of a buffer and of who sent them; the mean by default. `latest`: a buffer has
    the latest vector of each client alone.
    """

    def __init__(
        self,
        clients: list[Client],
        times: Array,
        lr: float,
        schedule: Callable[[int], float] = lambda version: 1.0,
        tune: Callable[[Client, Array, int], Array] = lambda client, theta, version: best_local(client, theta),
        combine: Callable[[Array, list[int]], Array] = lambda held, senders: np.mean(held, axis=0),
        latest: bool = False,
    ) -> None:
        self.clients, self.times, self.lr, self.schedule, self.tune = clients, times, lr, schedule, tune
        self.combine, self.latest = combine, latest

    def run(
        self, arrivals: int, step: str, buffer: int, max_staleness: int | None
    ) -> tuple[Array, list[list[float]], int]:
        theta, version, held, delays, dropped = np.zeros(self.clients[0]["H"].shape[1]), 0, [], [], 0
        senders: list[int] = []
        jobs = [(self.times[m, 0], m, theta, 0, 0) for m in range(len(self.clients))]
        heapq.heapify(jobs)
        log = []
        for _ in range(arrivals):
            now, m, used, number, its_version = heapq.heappop(jobs)
            gradient = shared_gradient(self.clients[m], used, self.tune(self.clients[m], used, its_version))
            delay = version - its_version
            log.append([m, its_version, delay, now])
            if max_staleness is not None and delay > max_staleness:
                dropped += 1
            elif self.latest and m in senders:
                held[senders.index(m)], delays[senders.index(m)] = gradient, delay
            else:
                held, delays, senders = [*held, gradient], [*delays, delay], [*senders, m]
            if len(held) == buffer:
                constant = min(1.0, buffer / len(self.clients))
                factor = constant if step == "constant" else 1.0 / max(*delays, 1)
                factor *= self.schedule(version)
                theta = theta - self.lr * factor * self.combine(np.array(held), senders)
                version, held, delays, senders = version + 1, [], [], []
            heapq.heappush(jobs, (now + self.times[m, number + 1], m, theta, number + 1, version))
        return theta, log, dropped


@pytest.mark.parametrize("step", ["constant", "delay_adaptive"])
@pytest.mark.parametrize(("buffer", "max_staleness"), [(1, None), (3, None), (1, 4), (3, 1), (6, None), (8, None)])
def test_follows_an_event_loop_written_by_hand(
    tmp_path: Path, step: str, buffer: int, max_staleness: int | None
) -> None:
    clients = random_clients(6)
    path = write_clients(tmp_path / "problem.h5", clients)
    rules = {"step": step, "buffer": buffer, "max_staleness": max_staleness}
    run = clock(problem={"name": "quadratic", "file": str(path)}, algorithm=ffgg(EXACT, 0.2), rounds=300, rules=rules)
    drawn = run.setup.compute_times
    assert drawn is not None
    times = np.array([[drawn.seconds(0, m, k) for k in range(200)] for m in range(6)])
    want, log, dropped = EventLoop(clients, times, 0.2).run(300, step, buffer, max_staleness)
    assert np.linalg.norm(theta(run) - want) <= 1e-10 * np.linalg.norm(want)
    recorded = run.arrivals.arrays()
    assert np.stack([recorded[name] for name in ("client", "version", "delay", "seconds")], axis=1).tolist() == log
    assert run.num_dropped == dropped
    assert (dropped > 0) == (max_staleness is not None)
    assert max(recorded["delay"]) > 1 or buffer > 3
    last = run.trail[-1]  # type: ignore[attr-defined]
    norm = float(last.metrics["operator_norm"])
    assert norm == pytest.approx(float(np.linalg.norm(operator(clients, want))), rel=1e-8)
    assert last.costs["virtual_seconds"] == log[-1][3]
    assert last.costs["shared_gradients"] == 300
    assert last.costs["server_updates"] == (300 - dropped) // buffer
    assert last.costs["dropped_arrivals"] == dropped
    assert last.costs["uplink_bytes"] == last.costs["downlink_bytes"] == 300 * 6 * 8


@pytest.mark.parametrize("tuner", [EXACT, WARM], ids=["exact", "warm"])
def test_one_client_in_flight_is_sequential_ffgg(tuner: dict[str, Any]) -> None:
    """No delay: θ ← θ − γ g_m for one drawn client after the other, bit for bit the rounds with a cohort of one."""
    alone = clock(rules={"concurrency": 1}, algorithm=ffgg(tuner))
    assert not alone.arrivals.arrays()["delay"].any()
    rounds = open_engine(build(config(problem=SMALL, rounds=60, cohort=1, algorithm=ffgg(tuner)), SoloCommunicator()))
    list(rounds)
    assert theta(alone).tobytes() == theta(rounds).tobytes()
    assert locals_of(alone) == locals_of(rounds)
    assert len(set(alone.arrivals.arrays()["client"].tolist())) == 7


def test_the_draws_of_a_client_are_counted_by_its_own_jobs() -> None:
    """Job k of a client draws the same fresh w whatever the others do."""
    one, other = (clock(times=times, algorithm=ffgg(CG)) for times in (EXPONENTIAL, {"name": "fixed"}))
    assert theta(one).tobytes() != theta(other).tobytes()
    for engine in (one, other):
        log = engine.arrivals.arrays()["client"]
        client = 2
        jobs = int((log == client).sum())
        problem = engine.setup.problem
        assert engine._in_flight[client].number == jobs
        redrawn = problem.objective.redraw_local(client, jobs - 1)["w"]
        assert not torch.equal(redrawn, problem.objective.redraw_local(client, jobs)["w"])


@pytest.mark.parametrize(
    ("times", "rules", "tuner"),
    [
        (EXPONENTIAL, {}, WARM),
        (STRAGGLER, {"step": "delay_adaptive", "max_staleness": 9}, CG),
        ({"name": "pareto"}, {"concurrency": 3, "buffer": 2}, EXACT),
    ],
)
def test_any_number_of_ranks_gives_the_same_bits(times: Any, rules: Any, tuner: Any) -> None:
    sections = {"algorithm": ffgg(tuner), "evaluate": {"every": 13, "tuned": {"epochs": 0}}}

    def go(communicator: Any) -> Any:
        engine = clock(communicator, times, rules, **sections)
        scores = [(s.round, s.metrics, {k: v for k, v in s.costs.items() if k not in TIMING}) for s in engine.trail]  # type: ignore[attr-defined]
        return theta(engine).tobytes(), locals_of(engine), engine.arrivals.arrays(), scores

    alone = on_ranks(1, go)[0]
    for size in (2, 3, 4):
        everyone = on_ranks(size, go)
        assert b"".join(local for _, local, _, _ in everyone) == alone[1]
        for shared, _, log, scores in everyone:
            assert shared == alone[0]
            assert all(np.array_equal(log[name], alone[2][name]) for name in alone[2])
            assert len(scores) == len(alone[3]) == 6
            for (round, metrics, costs), (want_round, want_metrics, want_costs) in zip(scores, alone[3], strict=True):
                assert (round, costs) == (want_round, want_costs)
                assert all(np.array_equal(metrics[name], want_metrics[name]) for name in want_metrics)


def test_ranks_compute_ahead_and_not_twice() -> None:
    """While one rank's uplink is awaited the others are not idle, and no job is computed more than once."""

    def go(communicator: Any) -> tuple[int, int]:
        document = {"problem": SMALL, "rounds": 60, "compute_times": EXPONENTIAL, "asynchronous": {"engine": "virtual"}}
        engine = VirtualClock(build(config(**document), communicator))
        computed, ahead = [], []
        original, original_ahead = engine._compute, engine._compute_ahead

        def count(client: int, message: Any, job: int, version: int) -> Any:
            computed.append((client, job))
            return original(client, message, job, version)

        def count_ahead() -> None:
            before = len(computed)
            original_ahead()
            ahead.append(len(computed) - before)

        engine._compute, engine._compute_ahead = count, count_ahead  # type: ignore[method-assign]
        list(engine)
        assert len(set(computed)) == len(computed)
        return len(computed), sum(ahead)

    for computed, ahead in on_ranks(3, go):
        assert ahead >= computed // 2 > 5


@pytest.mark.slow
def test_thousands_of_clients() -> None:
    problem = {**SMALL, "clients": 2000, "rows": 6, "shared_dimension": 3, "local_dimension": 2}
    engine = clock(problem=problem, rounds=2000, rules={"concurrency": 1000})
    log = engine.arrivals.arrays()
    assert len(engine._in_flight) == 1000
    assert len(np.unique(log["client"])) > 1000
    assert 300 < np.mean(log["delay"][-1000:]) < 1500


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_methods_that_send_changes_of_theta_run_asynchronously(name: str) -> None:
    """With one client in flight they are rounds with a cohort of one; with all of them there are delays."""
    document = {**cases.sections(name, "quadratic"), "rounds": 30}
    if "fine_tuner" in document["algorithm"]:  # fresh w are drawn by job in one run and by round in the other
        document["algorithm"] = {**document["algorithm"], "fine_tuner": WARM}
    alone, everyone = clock(rules={"concurrency": 1}, **document), clock(**document)
    rounds = open_engine(build(config(**document, cohort=1), SoloCommunicator()))
    list(rounds)
    for key, value in rounds.server["shared"].items():
        assert alone.server["shared"][key].numpy().tobytes() == value.numpy().tobytes()
        assert float(value.abs().max()) > 0
    assert everyone.status == "complete"
    assert everyone.arrivals.arrays()["delay"].max() > 4


def test_the_delays_of_equal_clients() -> None:
    """Fixed times: the first wave arrives with delays 0 … M − 1, every later uplink with M − 1."""
    assert clock(times={"name": "fixed"}).arrivals.arrays()["delay"].tolist() == [*range(7), *[6] * 53]


def test_a_straggler_arrives_late_and_stale() -> None:
    log = clock(times={**STRAGGLER, "straggler_factor": 8}, rounds=100).arrivals.arrays()
    assert log["delay"][log["client"] == 0].tolist() == [42, 48]
    assert log["seconds"][log["client"] == 0].tolist() == [8.0, 16.0]
    assert log["turnaround_seconds"][log["client"] == 0].tolist() == [8.0, 8.0]


def test_synchronous_rounds_last_as_long_as_their_slowest_client() -> None:
    def seconds(times: Any, cohort: Any) -> list[float]:
        sections = {"compute_times": times, "cohort": cohort, "evaluate": {"every": 1, "tuned": {"epochs": 0}}}
        setup = build(config(problem=SMALL, rounds=5, **sections), SoloCommunicator())
        found = [float(scored.costs["virtual_seconds"]) for scored in open_engine(setup)]
        drawn = setup.compute_times
        assert drawn is not None
        slowest = [max(drawn.seconds(0, client, round) for client in setup.cohort(round)) for round in range(5)]
        assert found == [sum(slowest[:round]) for round in range(6)]
        return found

    assert seconds({**STRAGGLER, "mean_seconds": 2.0}, "all")[-1] == 1000.0
    assert seconds(EXPONENTIAL, 2)[-1] < seconds(EXPONENTIAL, "all")[-1]
    without = open_engine(build(config(problem=SMALL, rounds=1), SoloCommunicator()))
    assert all("virtual_seconds" not in scored.costs for scored in without)


def test_divergence_is_noticed_at_once() -> None:
    engine = clock(algorithm=ffgg(EXACT, 1e4), rounds=1000)
    assert engine.status == "diverged"
    assert len(engine.arrivals) < 500


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"algorithm": L2GD}, r"algorithm.name: .*fedavg, .*ffgg, .*'l2gd' cannot run asynchronously, since its coin"),
        ({"aggregator": {"name": "median"}}, "asynchronous.buffer: .*at least 3, "),
        ({"weights": "samples"}, "weights"),
        ({"cohort": 2}, "cohort"),
        ({"compute_times": None}, "compute_times"),
        ({"asynchronous": {"engine": "messages"}}, "compute_times"),
        ({"engine": {"clients_per_chunk": 2}}, "engine.clients_per_chunk"),
        ({"asynchronous": {"engine": "virtual", "buffer": 0}}, "asynchronous.buffer"),
        ({"compute_times": {"name": "pareto", "alpha": 1.0}}, "compute_times.alpha"),
    ],
)
def test_what_does_not_fit_is_refused(sections: dict[str, Any], where: str) -> None:
    document = {"problem": SMALL, "compute_times": EXPONENTIAL, "asynchronous": {"engine": "virtual"}, **sections}
    with pytest.raises(ConfigError, match=rf"test: {where}"):
        config(**document)


def test_more_clients_at_work_than_there_are_are_refused() -> None:
    document = {"problem": SMALL, "compute_times": EXPONENTIAL}
    with pytest.raises(ConfigError, match=r"asynchronous\.concurrency: more clients than there are"):
        config(**document, asynchronous={"engine": "virtual", "concurrency": 8})


def test_more_stragglers_than_clients_are_refused() -> None:
    document = {"problem": SMALL, "asynchronous": {"engine": "virtual"}}
    with pytest.raises(SharedUserError, match=r"compute_times\.stragglers: 8 slow clients"):
        build(config(**document, compute_times={"name": "fixed", "stragglers": 8}), SoloCommunicator())


def recorded_run(folder: Path, **sections: Any) -> tuple[Path, Any]:
    document = {"problem": SMALL, "rounds": 60, "compute_times": EXPONENTIAL, "asynchronous": {"engine": "virtual"}}
    path = folder / "recorded.h5"
    run(config(**{**document, **sections}), path, Silent())
    return path, document


def test_a_trace_repeats_the_times(tmp_path: Path) -> None:
    path, _ = recorded_run(tmp_path)
    again = clock(times={"name": "trace", "file": str(path)}, rounds=40)
    want = clock(rounds=40)
    assert theta(again).tobytes() == theta(want).tobytes()
    assert again.arrivals.arrays()["seconds"] == pytest.approx(want.arrivals.arrays()["seconds"], rel=1e-12)
    longer = clock(times={"name": "trace", "file": str(path)}, rounds=500)
    assert np.mean(np.diff(longer.arrivals.arrays()["seconds"])) == pytest.approx(1 / 7, rel=0.4)


@pytest.mark.parametrize(
    ("settings", "quantile"),
    [
        ({"name": "fixed"}, 1.0),
        ({"name": "exponential"}, np.log(2)),
        ({"name": "log_normal", "sigma": 0.5}, np.exp(-1 / 8)),
        ({"name": "pareto", "alpha": 3.0}, 2 / 3 * 2 ** (1 / 3)),
    ],
)
def test_times_have_the_stated_mean_and_median(settings: dict[str, Any], quantile: float) -> None:
    document = {"problem": SMALL, "compute_times": {**settings, "mean_seconds": 2.0, "stragglers": 1}}
    times = config(**document).compute_times
    assert times is not None
    drawn = np.array([[times.seconds(5, client, job) for job in range(4000)] for client in (1, 2)])
    assert drawn.mean() == pytest.approx(2.0, rel=0.04)
    assert np.median(drawn) == pytest.approx(2.0 * quantile, rel=0.04)
    assert times.seconds(5, 2, 77) == drawn[1, 77]
    assert (settings["name"] == "fixed") == (len(np.unique(drawn)) == 1)
    assert len(np.unique(drawn)) in (1, drawn.size)
    slow = [times.seconds(5, 0, job) for job in range(4000)]
    assert np.mean(slow) == pytest.approx(200.0, rel=0.06)


def test_a_result_without_a_log_is_refused(tmp_path: Path) -> None:
    path, _ = recorded_run(tmp_path, asynchronous=None)
    with pytest.raises(SharedUserError, match=r"compute_times.file: recorded.h5 is no result of an asynchronous run"):
        clock(times={"name": "trace", "file": str(path)})
    with pytest.raises(SharedUserError, match="has 0 arrivals"):
        clock(times=None, rules={"replay": str(path)})


def test_a_trace_without_some_client_is_refused(tmp_path: Path) -> None:
    path, _ = recorded_run(tmp_path, rounds=5)
    with pytest.raises(SharedUserError, match=r"compute_times.file: recorded.h5 has no arrival of client"):
        clock(times={"name": "trace", "file": str(path)})


def test_a_log_of_another_run_is_refused(tmp_path: Path) -> None:
    path, _ = recorded_run(tmp_path)
    replay = {"replay": str(path)}
    assert theta(clock(times=None, rules=replay)).tobytes() == theta(clock()).tobytes()
    with pytest.raises(SharedUserError, match="arrival 1 of the log is of client"):
        clock(times=None, rules={**replay, "buffer": 2})
    with pytest.raises(SharedUserError, match="it is not at work"):
        clock(times=None, rules={**replay, "concurrency": 2})
    with pytest.raises(SharedUserError, match="has 60 arrivals, rounds: 61 asks for more"):
        clock(times=None, rules=replay, rounds=61)
