"""Draws depend on (seed, purpose, round, client) and on nothing else."""

from __future__ import annotations

import itertools

import numpy as np

from ppfl.core.rng import Streams, generator


def test_same_key_same_draw() -> None:
    first = generator(3, "cohort", round=5, client=7).standard_normal(4)
    generator(3, "cohort", round=1, client=1).standard_normal(100)
    assert np.array_equal(first, generator(3, "cohort", round=5, client=7).standard_normal(4))


def test_every_part_of_the_key_matters() -> None:
    keys = itertools.product([0, 1, 2**40], ["a", "b"], [0, 1], [0, 1])
    draws = [tuple(generator(s, p, round=r, client=c).standard_normal(2)) for s, p, r, c in keys]
    assert len(set(draws)) == len(draws)


def test_neighbouring_counters_do_not_overlap() -> None:
    """A long draw of one client never reaches into the next client's numbers."""
    long = generator(0, "x", client=0).random(200_000)
    start = generator(0, "x", client=1).random(4)
    assert not np.isin(start, long).any()


def test_streams_draw_what_generators_of_their_own_do() -> None:
    """Whatever was drawn before, and however much of it: also halves of 64 bits that were kept for later."""
    streams = Streams(3, "redraw")
    for round, client, count in itertools.product([0, 5, 2**40], [0, 7], [1, 2, 3, 50]):
        fresh, again = generator(3, "redraw", round=round, client=client), streams.at(round, client)
        assert np.array_equal(again.standard_normal(count), fresh.standard_normal(count))
        assert np.array_equal(again.random(3, dtype=np.float32), fresh.random(3, dtype=np.float32))
