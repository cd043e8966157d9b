"""Rules and attackers over the buffer of an asynchronous run: ranks, resumes, replays, rounds in disguise, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.errors import ConfigError
from ppfl.core.agree import SharedUserError
from ppfl.engine.choose import open_engine
from ppfl.engine.exchange import buffer
from ppfl.rows import client_rows
from ppfl.runs.assemble import build
from tests import examples
from tests.aggregators.tables import ON_VECTORS, RULES, settings_for
from tests.engine.build import EXACT, config, ffgg
from tests.engine.interrupted import go_on, merged
from tests.engine.test_interrupted import Slowly, whole_and_pieces
from tests.engine.test_messages import EVALUATE, jitter, messages, record
from tests.engine.test_virtual_clock import CG, SMALL, WARM, EventLoop, clock, locals_of, theta
from tests.numpy_reference import Array, random_clients, write_clients
from tests.ranks import on_ranks

FLIP: dict[str, Any] = {"name": "sign_flip", "factor": 3.0}
TRIMMED: dict[str, Any] = {"name": "trimmed_mean", "f": 1, "before": [{"name": "nnm"}]}
RULES_OF_RUN: dict[str, Any] = {"step": "delay_adaptive", "buffer": 5, "max_staleness": 3}
ATTACKED: dict[str, Any] = {
    "problem": SMALL,
    "algorithm": ffgg(CG),
    "aggregator": TRIMMED,
    "byzantine": {"attack": {"name": "gaussian", "standard_deviation": 1.0}, "clients": 1, "rounds": 0.5},
}
TIMES = {"name": "log_normal", "stragglers": 1, "straggler_factor": 10}


@pytest.fixture(autouse=True)
def _narrow_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten coordinates are three blocks, so that three ranks have columns of their own."""
    monkeypatch.setattr(client_rows, "BLOCK_COLUMNS", 4)


def run_with(**sections: Any) -> dict[str, Any]:
    """Return sections of a run by the virtual clock."""
    return {**ATTACKED, "rounds": 60, "compute_times": TIMES, "evaluate": EVALUATE} | sections


@pytest.mark.parametrize("attack", ON_VECTORS)
def test_ranks_do_not_change_a_bit(attack: str) -> None:
    """Each attack against the next rule, from among the clients and from beside them in turn."""
    number = ON_VECTORS.index(attack)
    beside = number % 2 == 1
    name = [rule for rule in RULES if rule != "mean"][number % (len(RULES) - 1)]
    section = examples.section("attacks", attack) | ({"factor": 1.5} if attack == "little_is_enough" else {})
    document = run_with(
        aggregator={"name": name, **settings_for(name, RULES_OF_RUN["buffer"] + beside)},
        byzantine={"attack": section, "clients": 1, "placement": "beside" if beside else "among"},
        asynchronous={"engine": "virtual", **RULES_OF_RUN},
        rounds=40,
    )

    def go(communicator: Any) -> Any:
        engine = open_engine(build(config(**document), communicator))
        return engine, list(engine)

    alone, two, three = (merged(on_ranks(size, go)) for size in (1, 2, 3))
    assert alone == two == three
    assert any(key[0] == "scores" and key[2] == "replaced_arrivals" for key in alone)


@pytest.mark.parametrize("step", ["constant", "delay_adaptive"])
@pytest.mark.parametrize(("size", "max_staleness"), [(3, None), (4, 1), (6, None)])
def test_follows_an_event_loop_written_by_hand(tmp_path: Path, step: str, size: int, max_staleness: int | None) -> None:
    """A client that flips signs, against the median, in plain NumPy."""
    clients = random_clients(6)
    path = write_clients(tmp_path / "problem.h5", clients)

    def combine(held: Array, senders: list[int]) -> Array:
        sent = [-3.0 * vector if m == 2 else vector for vector, m in zip(held, senders, strict=True)]
        return np.asarray(np.median(sent, axis=0))

    run = clock(
        problem={"name": "quadratic", "file": str(path)}, algorithm=ffgg(EXACT, 0.2), rounds=200,
        byzantine={"attack": FLIP, "clients": ["0002"]}, aggregator={"name": "median"},
        rules={"step": step, "buffer": size, "max_staleness": max_staleness},
    )  # fmt: skip
    drawn = run.setup.compute_times
    assert drawn is not None
    times = np.array([[drawn.seconds(0, m, k) for k in range(200)] for m in range(6)])
    loop = EventLoop(clients, times, 0.2, combine=combine, latest=True)
    want, log, dropped = loop.run(200, step, size, max_staleness)
    assert np.linalg.norm(theta(run) - want) <= 1e-12 * np.linalg.norm(want)
    assert run.arrivals.arrays()["client"].tolist() == [row[0] for row in log]
    assert run.num_dropped == dropped


@pytest.mark.parametrize("plan", [[(1, 3), (2, 20), (3, None)], [(3, 20), (1, 40), (2, None)]])
@pytest.mark.parametrize("sections", [{}, {"aggregator": {"name": "mean"}}])
def test_a_buffer_goes_on_with_the_same_bits(
    tmp_path: Path, plan: list[tuple[int, int | None]], sections: dict[str, Any]
) -> None:
    """Stopped between two steps, also on other ranks, which own other columns."""
    document = run_with(asynchronous={"engine": "virtual", **RULES_OF_RUN}, **sections)
    whole, pieces = whole_and_pieces(tmp_path, plan, **document)
    assert whole == pieces


def test_a_snapshot_holds_on_each_rank_its_own_columns(tmp_path: Path) -> None:
    def go(communicator: Any) -> Any:
        document = run_with(asynchronous={"engine": "virtual", **RULES_OF_RUN})
        engine, _ = go_on(communicator, tmp_path, 14, **document)
        rows = engine._rows  # type: ignore[union-attr]
        assert rows is not None
        return len(rows.delays), rows._columns.shape, rows.columns.starts

    found = on_ranks(3, go)
    assert len({number for number, _, _ in found}) == 1
    assert [shape[1] for _, shape, _ in found] == [4, 4, 2]
    assert [starts for _, _, starts in found] == [[0], [4], [8]]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_virtual_clock_replays_messages_bit_for_bit(tmp_path: Path, size: int) -> None:
    sections = {**ATTACKED, "algorithm": ffgg(WARM)}
    live = on_ranks(size, lambda communicator: messages(communicator, RULES_OF_RUN, jitter, **sections))
    path = record(tmp_path / "live.h5", live[0])
    replay = clock(times=None, rules={**RULES_OF_RUN, "replay": str(path)}, evaluate=EVALUATE, **sections)
    assert b"".join(map(locals_of, live)) == locals_of(replay)
    assert replay.version > 3
    for engine in live:
        assert theta(engine).tobytes() == theta(replay).tobytes()
        for one, other in zip(engine.trail, replay.trail, strict=True):  # type: ignore[attr-defined]
            shared = one.costs.keys() - {"seconds", "communication_seconds"}
            assert {name: one.costs[name] for name in shared} == {name: other.costs[name] for name in shared}


@pytest.mark.parametrize("stopping_rank", [0, 1])
def test_a_run_by_messages_that_was_stopped_is_replayed_bit_for_bit(tmp_path: Path, stopping_rank: int) -> None:
    document = {**ATTACKED, "rounds": 80, "evaluate": EVALUATE}
    live = {**document, "asynchronous": {"engine": "messages", **RULES_OF_RUN}}
    for size, stop_after in ((2, 18), (3, 41), (2, None)):
        runs = on_ranks(
            size,
            lambda c, stop_after=stop_after: go_on(c, tmp_path, stop_after, stopping_rank, prepare=Slowly, **live),
        )
        assert {engine.status for engine, _ in runs} == {"stopped" if stop_after else "complete"}
    engines: list[Any] = [engine for engine, _ in runs]
    log = record(tmp_path / "live.h5", engines[0])
    replayed = clock(times=None, rules={**RULES_OF_RUN, "replay": str(log)}, **document)
    assert all(theta(engine).tobytes() == theta(replayed).tobytes() for engine in engines)
    assert b"".join(map(locals_of, engines)) == locals_of(replayed)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("placement", ["among", "beside"])
@pytest.mark.parametrize(
    "attack", [FLIP, {"name": "gaussian", "standard_deviation": 2.0}, {"name": "min_max"}, {"name": "inf"}]
)
def test_the_first_buffer_of_all_clients_with_equal_times_is_a_robust_round(
    attack: dict[str, Any], placement: str, precision: str
) -> None:
    """Bit for bit: the same vectors in the same order, randomness of the same step, and a factor of 1.

    The first alone, since clients do not wait for the step: afterwards all but one of them have a θ from before it.
    """
    sections = {
        "problem": SMALL, "algorithm": ffgg(WARM), "precision": precision, "aggregator": {**TRIMMED, "f": 2},
        "byzantine": {"attack": attack, "clients": 2, "placement": placement},
    }  # fmt: skip
    rounds = open_engine(build(config(rounds=1, **sections), SoloCommunicator()))
    list(rounds)
    steps = clock(times={"name": "fixed"}, rules={"buffer": 7}, **{**sections, "rounds": 7})
    assert steps.version == 1
    assert theta(steps).tobytes() == theta(rounds).tobytes()
    assert locals_of(steps) == locals_of(rounds)
    assert float(steps.server["shared"]["theta"].abs().max()) > 0


def test_the_mean_of_a_buffer_is_what_it_was() -> None:
    """Without attackers on vectors the sum is enough, whatever the buffer, and no row is kept."""
    for rules in ({}, {"buffer": 3}):
        assert clock(rules=rules)._rows is None
    digits = {
        "name": "supervised", "dataset": {"name": "digits", "partition": {"name": "iid", "clients": 5}},
        "model": {"name": "logistic_regression"}, "split": {"local": ["*.bias"]}, "batch_size": 16,
    }  # fmt: skip
    tuner = {"name": "gradient_descent", "steps": 1, "lr": 0.1}
    on_data = {"attack": {"name": "label_flip"}, "clients": 2}
    document = {"problem": digits, "algorithm": ffgg(tuner, 0.1), "byzantine": on_data, "rounds": 12}
    assert clock(**document)._rows is None
    robust = clock(**document, aggregator={"name": "median"}, rules={"buffer": 5})
    assert robust.status == "complete"
    assert robust.version == 1


def test_trimmed_mean_converges_where_the_mean_diverges() -> None:
    """FFGG, overpersonalized: 10 clients, of whom 2 flip signs tenfold, and a buffer of 5 = 2f + 1."""
    document = {
        "problem": {**SMALL, "zeta": 0, "clients": 10, "targets": "common"}, "algorithm": ffgg(EXACT),
        "byzantine": {"attack": {"name": "sign_flip", "factor": 10.0}, "clients": 2}, "rules": {"buffer": 5},
    }  # fmt: skip
    robust = clock(**document, rounds=4000, aggregator={"name": "trimmed_mean", "f": 2})
    first, last = (float(robust.trail[place].metrics["operator_norm"]) for place in (0, -1))  # type: ignore[attr-defined]
    assert last <= 1e-5 * first
    assert clock(**document, rounds=1000).status == "diverged"


def test_a_client_is_in_a_buffer_once_however_fast_it_is() -> None:
    """The attacker works 100 times as fast as the two others, and has one vote of three."""
    document = {"problem": {**SMALL, "clients": 3}, "byzantine": {"attack": FLIP, "clients": ["2"]}, "rounds": 603}
    engine = clock(
        times={"name": "fixed", "stragglers": 2}, rules={"buffer": 3}, aggregator={"name": "median"}, **document
    )
    costs = engine.trail[-1].costs  # type: ignore[attr-defined]
    arrivals = engine.arrivals.arrays()
    assert np.bincount(arrivals["client"]).tolist() == [5, 5, 593]
    # one more waits for the next step
    assert (costs["server_updates"], costs["replaced_arrivals"]) == (5.0, 603 - 5 * 3 - 1)


def buffers(engine: Any, size: int) -> list[tuple[int, ...]]:
    """Return whose uplinks made each step, of a run without a largest delay."""
    found: list[tuple[int, ...]] = []
    held: dict[int, None] = {}
    for client in engine.arrivals.arrays()["client"].tolist():
        held[client] = None
        if len(held) == size:
            found.append(tuple(held))
            held = {}
    return found


def test_attackers_see_the_buffer_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = buffer.of_matrix

    def look(setup: Any, sent: Any, senders: list[int], like: Any, step: int) -> Any:
        seen.append((sent.num_vectors, tuple(senders), step))
        return original(setup, sent, senders, like, step)

    monkeypatch.setattr(buffer, "of_matrix", look)
    engine = clock(**run_with(), rules={"buffer": 5})
    assert seen == [(5, senders, step) for step, senders in enumerate(buffers(engine, 5))]
    assert len(seen) > 5


def test_vectors_that_are_not_finite_are_left_out_or_end_the_run() -> None:
    def engine(**sections: Any) -> Any:
        document = run_with(byzantine={"attack": {"name": "inf"}, "clients": 1}, **sections)
        return clock(**document, rules={"buffer": 5})

    robust = engine()
    assert robust.status == "complete"
    (attacker,) = robust.setup.roles.byzantine
    left_out = sum(attacker in senders for senders in buffers(robust, 5))
    assert robust.trail[-1].costs["nonfinite_clients"] == left_out > 1
    assert math.isfinite(float(torch.linalg.vector_norm(torch.from_numpy(theta(robust)))))
    with pytest.raises(SharedUserError, match=r"server step \d+: NaN or inf from client .*which the mean does not"):
        engine(aggregator={"name": "mean"})
    # no score in between, which would tell it before nothing finite is left for the rule
    document = run_with(algorithm=ffgg(EXACT, 1e200), evaluate={**EVALUATE, "every": 1000})
    diverged = clock(**document, rules={"buffer": 5, "step": "constant"})
    assert diverged.status == "diverged"
    assert np.isfinite(theta(diverged)).all()
    assert diverged.trail[-1].round < document["rounds"]  # type: ignore[attr-defined]


def test_an_honest_vector_that_is_not_finite_is_left_to_the_rule() -> None:
    """Which the mean does not survive: there the run ends at once."""
    document = run_with(strategic={"clients": 1, "noise": 1.7e308}, byzantine=None)
    robust = clock(**document, rules={"buffer": 5})
    (loud,) = robust.setup.roles.strategic
    assert robust.status == "complete"
    costs = robust.trail[-1].costs  # type: ignore[attr-defined]
    assert costs["nonfinite_clients"] == sum(loud in senders for senders in buffers(robust, 5)) > 1
    assert clock(**{**document, "aggregator": {"name": "mean"}}, rules={"buffer": 5}).status == "diverged"


ASYNCHRONOUS = {"engine": "virtual"}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"aggregator": {"name": "median"}}, r"asynchronous.buffer: .*at least 3, 2f \+ 1 vectors, f = 1 at least"),
        ({"aggregator": TRIMMED | {"f": 2}, "asynchronous": {"buffer": 4}}, "at least 5, .* f = 2 of the rule"),
        ({"aggregator": {"name": "mean", "before": [{"name": "nnm", "f": 3}]}}, "at least 7, .* f = 3 of the rule"),
        ({"byzantine": {"attack": FLIP, "clients": 3}}, "at least 7, .* f = 3 for the attackers: a rule"),
        ({"byzantine": {"attack": FLIP, "clients": 3, "placement": "beside"}}, "at least 4, .* 3 of them beside"),
        (
            {"byzantine": {"attack": FLIP, "clients": ["0", "4"]}, "asynchronous": {"buffer": 4}},
            "at least 5, .* f = 2 for the attackers",
        ),
        (
            {"aggregator": {"name": "median"}, "asynchronous": {"buffer": 8}},
            "asynchronous.buffer: more clients than there are .*at most 7, the clients of the problem, each of whom is",
        ),
        (
            {"aggregator": {"name": "krum", "f": 1}, "asynchronous": {"buffer": 4}},
            r"aggregator: krum needs N >= 2f \+ 3 .*a larger asynchronous.buffer",
        ),
        (
            {
                "byzantine": {"attack": {"name": "little_is_enough"}, "clients": 2},
                "asynchronous": {"buffer": 5},
            },
            "byzantine.attack.factor: .*varies .*by step with a buffer",
        ),
    ],
)  # fmt: skip
def test_too_small_a_buffer_is_refused_with_what_is_allowed(sections: dict[str, Any], words: str) -> None:
    rules = {"asynchronous": ASYNCHRONOUS | sections.get("asynchronous", {})}
    document = {"problem": SMALL, "compute_times": TIMES, "algorithm": ffgg(WARM)} | sections | rules
    with pytest.raises(ConfigError, match=words):
        config(**document)


def test_a_buffer_that_data_make_too_small_is_refused_at_the_start(tmp_path: Path) -> None:
    path = write_clients(tmp_path / "problem.h5", random_clients(6))
    with pytest.raises(SharedUserError, match=r"asynchronous.buffer: 7 clients wanted, each .* but 6 have training"):
        clock(problem={"name": "quadratic", "file": str(path)}, aggregator={"name": "median"}, rules={"buffer": 7})
    with pytest.raises(SharedUserError, match=r"aggregator: krum needs N >= 2f \+ 3 with f = 1, .*there are 4"):
        clock(
            problem={"name": "quadratic", "file": str(path)}, aggregator={"name": "krum", "f": 1}, rules={"buffer": 4}
        )
