"""A run that is stopped and goes on, on any number of ranks, ends with the bits of an uninterrupted one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests import examples
from tests.algorithms.cases import PROBLEMS, QUADRATIC, is_gossip, sections
from tests.engine.build import EXACT, ffgg
from tests.engine.interrupted import go_on, merged
from tests.engine.test_messages import record
from tests.engine.test_virtual_clock import ASYNCHRONOUS, CG, SMALL, WARM, clock, locals_of, theta
from tests.ranks import on_ranks

if TYPE_CHECKING:
    from ppfl.engine.messages import Messages

EVALUATE = {"every": 2, "tuned": {"epochs": 0}}
ALGORITHMS = examples.names("algorithms")


def whole_and_pieces(folder: Path, plan: list[tuple[int, int | None]], **document: Any) -> tuple[Any, Any]:
    """Return fingerprints of a run in one piece, and of one in pieces [(ranks, rounds after which it is stopped)]."""
    whole = merged(on_ranks(1, lambda c: go_on(c, folder / "whole", None, **document)))
    pieces: dict[Any, bytes] = {}
    for size, stop_after in plan:
        runs = on_ranks(size, lambda c, stop_after=stop_after: go_on(c, folder / "pieces", stop_after, **document))
        statuses = {engine.status for engine, _ in runs}
        assert statuses == ({"complete"} if stop_after is None else {"stopped"})
        scores = {key: value for key, value in pieces.items() if key[0] == "scores"}
        pieces = scores | merged(runs)
    return whole, pieces


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_goes_on_with_the_same_bits(tmp_path: Path, name: str, problem: str) -> None:
    rounds = 1 + ALGORITHMS.index(name) % 3
    cohort = "all" if is_gossip(name) else 3
    document = {**sections(name, problem), "rounds": 5, "cohort": cohort, "evaluate": EVALUATE}
    whole, pieces = whole_and_pieces(tmp_path, [(2, rounds), (3, None)], **document)
    assert whole == pieces


@pytest.mark.parametrize("optimizer", [name for name in examples.names("server_optimizers") if name != "sgd"])
def test_every_server_optimizer_goes_on_with_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    settings = examples.section("server_optimizers", optimizer)
    document = {**sections("fedavg", "quadratic"), "server_optimizer": settings, "rounds": 5, "evaluate": EVALUATE}
    whole, pieces = whole_and_pieces(tmp_path, [(1, 2), (2, 3), (1, None)], **document)
    assert whole == pieces


def test_clients_in_chunks_go_on_with_the_same_bits(tmp_path: Path) -> None:
    document = {**sections("ffgg", "quadratic"), "rounds": 5, "evaluate": EVALUATE, "engine": {"clients_per_chunk": 2}}
    whole, pieces = whole_and_pieces(tmp_path, [(3, 2), (2, None)], **document)
    assert whole == pieces


def test_attackers_and_rules_go_on_with_the_same_bits(tmp_path: Path) -> None:
    document = {
        "problem": QUADRATIC,
        "algorithm": ffgg(EXACT),
        "aggregator": {"name": "trimmed_mean", "f": 1},
        "byzantine": {"attack": {"name": "gaussian", "standard_deviation": 1.0}, "clients": 1, "rounds": 0.5},
        "compute_times": {"name": "exponential"},
        "rounds": 6,
        "evaluate": EVALUATE,
    }
    whole, pieces = whole_and_pieces(tmp_path, [(2, 3), (1, None)], **document)
    assert whole == pieces


def test_strategic_clients_go_on_with_the_same_bits(tmp_path: Path) -> None:
    """Noise and squared norms between two scores among them."""
    document = {
        "problem": QUADRATIC,
        "algorithm": ffgg(EXACT),
        "strategic": {"clients": 2, "scale": 2, "noise": 0.5},
        "rounds": 7,
        "cohort": 3,
        "evaluate": {**EVALUATE, "reports": ["squared_norm"]},
    }
    whole, pieces = whole_and_pieces(tmp_path, [(2, 3), (3, None)], **document)
    assert whole == pieces


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_the_virtual_clock_goes_on_with_the_same_bits(tmp_path: Path, name: str) -> None:
    document = {
        **sections(name, "quadratic"),
        "rounds": 33,
        "evaluate": {"every": 7, "tuned": {"epochs": 0}},
        "asynchronous": {"engine": "virtual"},
        "compute_times": {"name": "exponential"},
    }
    whole, pieces = whole_and_pieces(tmp_path, [(2, 9), (3, None)], **document)
    assert whole == pieces


@pytest.mark.parametrize("plan", [[(1, 3), (2, 20), (3, None)], [(3, 20), (1, 40), (2, None)], [(2, 44), (2, None)]])
def test_clients_in_flight_buffers_and_draws_go_on(tmp_path: Path, plan: list[tuple[int, int | None]]) -> None:
    document = {
        "problem": SMALL,
        "algorithm": ffgg(CG),
        "rounds": 60,
        "evaluate": {"every": 13, "tuned": {"epochs": 0}},
        "server_optimizer": {"name": "momentum"},
        "asynchronous": {
            "engine": "virtual", "step": "delay_adaptive", "concurrency": 4, "buffer": 3, "max_staleness": 2,
        },
        "compute_times": {"name": "log_normal", "stragglers": 1, "straggler_factor": 10},
    }  # fmt: skip
    whole, pieces = whole_and_pieces(tmp_path, plan, **document)
    assert whole == pieces


def test_rank_counts_and_rounds_of_checkpoints_do_not_matter_when_nothing_stops(tmp_path: Path) -> None:
    document = {**sections("scaffold", "quadratic"), "rounds": 7, "evaluate": EVALUATE}
    whole = merged(on_ranks(1, lambda c: go_on(c, tmp_path / "whole", None, **document)))
    saved = merged(on_ranks(2, lambda c: go_on(c, tmp_path / "saved", None, every=2, **document)))
    assert whole == saved
    folder = tmp_path / "saved" / "r.h5.checkpoint"
    assert sorted(path.name for path in folder.iterdir()) == ["current.json", "previous.json", "round-4", "round-6"]


class Slowly:
    """Makes jobs last, so that messages of several ranks meet."""

    def __init__(self, engine: Messages) -> None:
        self._original = engine._compute
        self._rank = engine.setup.communicator.rank
        engine._compute = self  # type: ignore[method-assign]

    def __call__(self, client: int, message: Any, job: int, version: int) -> Any:
        time.sleep(0.001 * ((client * 7 + self._rank * 3 + time.perf_counter_ns()) % 3))
        return self._original(client, message, job, version)


@pytest.mark.parametrize("stopping_rank", [0, 1])
@pytest.mark.parametrize(
    ("rules", "tuner"),
    [({}, WARM), ({"step": "delay_adaptive", "buffer": 2, "max_staleness": 2}, CG), ({"concurrency": 3}, WARM)],
)
def test_the_log_of_a_run_by_messages_that_was_stopped_is_replayed_bit_for_bit(
    tmp_path: Path, stopping_rank: int, rules: dict[str, Any], tuner: dict[str, Any]
) -> None:
    document = {"problem": SMALL, "rounds": 80, "evaluate": {"every": 13, "tuned": {"epochs": 0}}}
    document |= {"algorithm": ffgg(tuner), "server_optimizer": {"name": "momentum"}}
    live = {**document, "asynchronous": {"engine": "messages", **rules}}
    for size, stop_after in ((2, 20), (3, 41), (2, None)):
        runs = on_ranks(
            size,
            lambda c, stop_after=stop_after: go_on(c, tmp_path, stop_after, stopping_rank, prepare=Slowly, **live),
        )
        assert {engine.status for engine, _ in runs} == {"stopped" if stop_after else "complete"}
    engines = [engine for engine, _ in runs]
    assert len(engines[0].arrivals) == 80
    log = record(tmp_path / "live.h5", engines[0])
    replayed = clock(times=None, rules={**rules, "replay": str(log)}, **document)
    assert theta(replayed).tobytes() == theta(engines[0]).tobytes()
    assert locals_of(replayed) == b"".join(locals_of(engine) for engine in engines)
    again = {scored.round: scored for scored in replayed.trail}  # type: ignore[attr-defined]
    for scored in runs[0][1]:
        want = {**again[scored.round].metrics, **again[scored.round].costs}
        for name, number in {**scored.metrics, **scored.costs}.items():
            assert name in ("seconds", "communication_seconds") or np.array_equal(want[name], number), (
                scored.round,
                name,
            )
