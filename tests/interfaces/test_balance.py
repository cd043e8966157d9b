"""Contiguous pieces of work: compared with all other ways to cut."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppfl.interfaces.placement import balanced_bounds


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 5))
@settings(max_examples=300, deadline=None)
def test_no_other_cut_is_more_even(loads: list[int], num_ranks: int) -> None:
    bounds = balanced_bounds(np.array(loads), num_ranks)
    assert len(bounds) == num_ranks + 1
    assert (bounds[0], bounds[-1]) == (0, len(loads))
    assert bounds == sorted(bounds)
    if num_ranks > len(loads):
        return
    assert len(set(bounds)) == num_ranks + 1

    def largest(cuts: tuple[int, ...] | list[int]) -> int:
        return max(sum(loads[a:b]) + b - a for a, b in pairwise(cuts))

    every = [(0, *cuts, len(loads)) for cuts in combinations(range(1, len(loads)), num_ranks - 1)]
    assert largest(bounds) == min(largest(cuts) for cuts in every)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7, 8])
def test_equal_loads_are_dealt_evenly(num_ranks: int) -> None:
    sizes = np.diff(balanced_bounds(np.full(100, 10), num_ranks))
    assert sizes.max() == -(-100 // num_ranks)
    assert sizes.min() == 100 // num_ranks
