"""Asynchronous runs by messages, ranks as threads: replay, shares of ranks and clients, what travels."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.core.communicator import LocalParameterError, Message
from ppfl.engine.choose import open_engine
from ppfl.engine.messages import Messages
from ppfl.results.recorder import Recorder
from ppfl.runs.assemble import build
from tests.engine.build import EXACT, config, ffgg
from tests.engine.test_virtual_clock import CG, SMALL, WARM, clock, locals_of, theta
from tests.ranks import ThreadCommunicator, on_ranks

EVALUATE = {"every": 13, "tuned": {"epochs": 0}}


def messages(communicator: Any, rules: Any = None, delay: Any = None, **sections: Any) -> Messages:
    """Return an engine that has run to its end; `delay` waits before each job, given (rank, client)."""
    document = {"problem": SMALL, "rounds": 60, "evaluate": EVALUATE, **sections}
    document["asynchronous"] = {"engine": "messages", **(rules or {})}
    engine = open_engine(build(config(**document), communicator))
    assert isinstance(engine, Messages)
    original = engine._compute

    def slowly(client: int, message: Any, job: int, version: int) -> Any:
        if delay is not None:
            time.sleep(delay(communicator.rank, client))
        return original(client, message, job, version)

    engine._compute = slowly  # type: ignore[method-assign]
    engine.trail = list(engine)  # type: ignore[attr-defined]
    return engine


def record(path: Path, engine: Messages) -> Path:
    """Write a result with the engine's log."""
    recorder = Recorder(path, {"digest": "0", "name": "t", "config": "{}", "results_version": 1}, {})
    recorder.describe_problem({}, {"client": np.array(["a"], dtype=object)})
    recorder.follow_arrivals(engine.arrivals.arrays)
    recorder.write()
    return path


def jitter(rank: int, client: int) -> float:
    return 0.002 * ((client * 7 + rank * 3 + time.perf_counter_ns()) % 3)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    ("rules", "tuner"),
    [({}, WARM), ({"step": "delay_adaptive", "buffer": 2, "max_staleness": 2}, CG), ({"concurrency": 3}, WARM)],
)
def test_the_virtual_clock_replays_it_bit_for_bit(tmp_path: Path, size: int, rules: Any, tuner: Any) -> None:
    """Same θ, every w_m, scores and costs; what differs is what the clock on the wall says."""
    sections = {"algorithm": ffgg(tuner)}
    live = on_ranks(size, lambda communicator: messages(communicator, rules, jitter, **sections))
    path = record(tmp_path / "live.h5", live[0])
    replay = clock(times=None, rules={**rules, "replay": str(path)}, evaluate=EVALUATE, **sections)
    assert b"".join(map(locals_of, live)) == locals_of(replay)
    log, again = live[0].arrivals.arrays(), replay.arrivals.arrays()
    assert all(np.array_equal(log[name], again[name]) for name in log)
    for engine in live:
        assert engine.status == replay.status == "complete"
        assert theta(engine).tobytes() == theta(replay).tobytes()
        for one, other in zip(engine.trail, replay.trail, strict=True):  # type: ignore[attr-defined]
            assert one.round == other.round
            assert all(np.array_equal(one.metrics[name], other.metrics[name]) for name in other.metrics)
            shared = one.costs.keys() - {"seconds", "communication_seconds"}
            assert {name: one.costs[name] for name in shared} == {name: other.costs[name] for name in shared}
    assert np.all(np.diff(log["seconds"]) >= 0)
    assert np.all(log["turnaround_seconds"] >= 0)


def test_a_rank_works_through_its_clients_in_order() -> None:
    log = on_ranks(1, messages)[0].arrivals.arrays()
    assert log["client"].tolist() == [number % 7 for number in range(60)]
    assert log["delay"].tolist() == [*range(7), *[6] * 53]


def test_the_order_is_that_of_arrival() -> None:
    """A rank that takes 20 times as long per job arrives less often, and its uplinks are older."""

    def delay(rank: int, client: int) -> float:
        return 0.2 if rank == 1 else 0.01  # what the job itself takes, also on a slow machine, is to be little of it

    log = on_ranks(2, lambda c: messages(c, delay=delay, rounds=100))[0].arrivals.arrays()
    slow = log["client"] >= 3
    assert 1 <= slow.sum() <= 20
    assert log["delay"][slow].mean() > 2 * log["delay"][~slow].mean()


def test_no_rank_starves_with_equal_clients() -> None:
    """Nine equal clients on three ranks: each rank has between half and twice its third of the arrivals."""
    engine = on_ranks(3, lambda c: messages(c, delay=lambda *_: 0.001, problem={**SMALL, "clients": 9}, rounds=600))[0]
    clients = engine.arrivals.arrays()["client"]
    shares = np.bincount(clients // 3, minlength=3) / 600
    assert shares.min() >= 1 / 6
    assert shares.max() <= 2 / 3
    assert Counter(clients.tolist()).most_common()[-1][1] >= 600 / 9 / 4


class _Flood:
    """Ranks that answer before they are asked for twice: whatever is sent comes back at once, as a zero uplink."""

    def __init__(self, size: int) -> None:
        self.rank, self.size, self.local_rank = 0, size, 0
        self.waiting: list[Message] = []

    def send(self, destination: int, header: Any, body: torch.Tensor) -> None:
        _, client, version = header
        self.waiting.append(Message(destination, (1, client, version, 1, 1), torch.zeros_like(body)))

    def receive(self, dtype: torch.dtype, *, wait: bool) -> Message | None:
        return self.waiting.pop(0) if self.waiting else None


def test_neither_own_nor_other_clients_starve_when_all_answer_at_once() -> None:
    """Workers without any compute time on 4 ranks: rank 0 still works, and all other ranks have equal shares."""
    engine = on_ranks(1, lambda c: messages(c, problem={**SMALL, "clients": 8}, rounds=1))[0]
    engine._work.clear()
    engine._stops = [2, 4, 6, 8]
    engine.group.clients = range(2)
    flood = _Flood(4)
    guarded = engine.setup.communicator
    guarded._inner, guarded.size = flood, 4  # type: ignore[assignment]
    for client in range(8):
        engine._dispatch(client)
    arrived = []
    for _ in range(400):
        uplink = engine._next_uplink()
        engine._sent_at_seconds.pop(uplink.client)
        arrived.append(uplink.client)
        engine._dispatch(uplink.client)
    counts = np.bincount(np.array(arrived) // 2, minlength=4)
    assert counts.min() >= 90
    assert counts.max() <= 110


def test_vectors_and_integers_are_all_that_travels() -> None:
    sent: list[tuple[Any, torch.Tensor]] = []

    class Spy(ThreadCommunicator):
        def send(self, destination: int, header: Any, body: torch.Tensor) -> None:
            sent.append((header, body))
            super().send(destination, header, body)

    on_ranks(2, lambda c: messages(Spy(c._exchange, c.rank, c.size), delay=lambda *_: 0.002))
    assert len(sent) > 20
    for header, body in sent:
        assert all(isinstance(int(number), int) for number in header)
        assert body.shape in ((10,), (0,))
        assert body.dtype == torch.float64


@pytest.mark.parametrize("size", [1, 2])
def test_an_uplink_with_local_memory_is_refused(size: int) -> None:
    problem = {**SMALL, "shared_dimension": 3}

    def leak(communicator: Any) -> None:
        engine = open_engine(build(config(problem=problem, asynchronous={"engine": "messages"}), communicator))
        assert isinstance(engine, Messages)
        honest = engine.group.compute

        def give_w_away(*arguments: Any) -> Any:
            uplink, state = honest(*arguments)
            return uplink.__class__(uplink.client, {"theta": state["local"]["w"]}, uplink.report), state

        engine.group.compute = give_w_away  # type: ignore[method-assign]
        list(engine)

    with pytest.raises(LocalParameterError, match="local parameters stay on the rank"):
        on_ranks(size, leak)


def test_divergence_ends_all_ranks() -> None:
    for engine in on_ranks(3, lambda c: messages(c, algorithm=ffgg(EXACT, 1e4), rounds=1000)):
        assert engine.status == "diverged"
