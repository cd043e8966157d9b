"""Rounds on the clock by hand: who is waited for, how long, and what follows."""

from __future__ import annotations

from typing import Any

import pytest

from ppfl.compute_times.fixed import Fixed
from ppfl.engine.clock import Clock, round_of
from ppfl.interfaces.links import Sizes
from ppfl.interfaces.network import Fate
from ppfl.links.constant import Constant

SIZES: dict[int, Sizes | None] = dict.fromkeys(range(3), Sizes(0, 100))


def clock(seed: int = 0, **settings: Any) -> Clock:
    """Return clients that send 100 bytes in 1, 2 and 10 s, after 1 s of computing."""
    links = Constant(name="constant", up_bits_per_second=(800.0, 400.0, 80.0), **settings)
    return Clock(seed, Fixed(name="fixed", mean_seconds=1.0), links)


@pytest.mark.parametrize(
    ("timeout", "least", "arrived", "is_heard", "seconds"),
    [
        (None, 1, {0, 1, 2}, True, 11.0),
        (20.0, 1, {0, 1, 2}, True, 11.0),
        (11.0, 3, {0, 1, 2}, True, 11.0),
        (5.0, 2, {0, 1}, True, 5.0),  # of the third nothing is known until then
        (5.0, 3, {0, 1}, False, 5.0),
        (1.5, 1, set(), False, 1.5),
    ],
)
def test_a_server_waits_for_all_or_until_the_timeout(
    timeout: float | None, least: int, arrived: set[int], is_heard: bool, seconds: float
) -> None:
    found = round_of(clock(timeout_seconds=timeout), SIZES, 0, least)
    assert (found.arrived, found.is_heard, found.seconds) == (arrived, is_heard, seconds)
    assert found.num_lost == 3 - len(arrived)


def test_nobody_waits_for_those_who_drop_out_unless_too_few_come() -> None:
    fates = {2: Fate.DROPPED, 0: Fate.ARRIVED, 1: Fate.ARRIVED}
    clocks = (clock(seed, drop_out=0.5, timeout_seconds=20.0) for seed in range(100))
    found = next(one for one in clocks if all(one.trip(m, 0, SIZES[m]).fate == fates[m] for m in fates))
    assert round_of(found, SIZES, 0, least=1).seconds == 3.0
    assert round_of(found, SIZES, 0, least=3).seconds == 20.0
    trip, seconds, fate = found.job(2, 0, SIZES[2])
    assert trip is not None
    assert (trip.seconds, seconds, fate) == (11.0, 20.0, Fate.DROPPED)


def test_those_who_were_heard_are_answered_in_the_end_and_nobody_after_silence() -> None:
    answers = dict.fromkeys(range(3), 100)
    back = {"down_bits_per_second": (80.0, 800.0, 8.0), "timeout_seconds": 5.0}
    found = round_of(clock(**back), SIZES, 0, 2, answers)
    assert {client: tuple(answer) for client, answer in found.answers.items()} == {0: (5.0, 10.0), 1: (5.0, 1.0)}
    assert (found.waited, found.seconds) == (5.0, 15.0)
    silent = round_of(clock(**back), SIZES, 0, 3, answers)
    assert (silent.answers, silent.seconds) == ({}, 5.0)


def test_a_client_that_is_away_is_given_up_at_the_timeout() -> None:
    away = clock(availability=0.5, timeout_seconds=4.0)
    jobs = [away.job(0, number, SIZES[0]) for number in range(40)]
    assert {(seconds, fate) for _, seconds, fate in jobs} == {(2.0, Fate.ARRIVED), (4.0, Fate.AWAY)}
    assert all((trip is None) == (fate == Fate.AWAY) for trip, _, fate in jobs)
