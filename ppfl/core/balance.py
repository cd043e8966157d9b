"""Contiguous pieces of work for ranks, as even as they can be."""

from __future__ import annotations

import numpy as np


def balanced_bounds(loads: np.ndarray, num_ranks: int) -> list[int]:
    """Return P + 1 bounds of contiguous pieces of L loads (integers ≥ 0) whose largest sum is the least possible.

    No piece is empty where P ≤ L; else the last ones are.
    """
    if num_ranks >= len(loads):
        return [min(rank, len(loads)) for rank in range(num_ranks + 1)]
    ends = np.concatenate([[0], np.cumsum(loads + 1)])  # a client without samples is some work, too
    low, high = int(loads.max()) + 1, int(ends[-1])
    # whatever capacity suffices, a larger one does, and loads are integers: halving finds the least one exactly
    while low < high:
        middle = (low + high) // 2
        if _fill(ends, num_ranks, middle)[-1] == len(loads):
            high = middle
        else:
            low = middle + 1
    return _spread(ends, num_ranks, low)


def _fill(ends: np.ndarray, num_ranks: int, capacity: int) -> list[int]:
    """Give each rank in turn as much as it can take, leaving at least one piece for each of those that follow."""
    bounds, number = [0], len(ends) - 1
    for rank in range(num_ranks):
        bounds.append(min(_reach(ends, bounds[-1], capacity), number - (num_ranks - 1 - rank)))
    return bounds


def _spread(ends: np.ndarray, num_ranks: int, capacity: int) -> list[int]:
    """Give each rank an equal part as nearly as the capacity of all of them allows."""
    number = len(ends) - 1
    earliest = [number]
    for rank in range(num_ranks - 1, -1, -1):
        first = int(np.searchsorted(ends, ends[earliest[0]] - capacity, side="left"))
        earliest.insert(0, max(first, rank))
    bounds = [0]
    for rank in range(1, num_ranks + 1):
        # in integers, without a quotient whose rounding could decide between two bounds
        even = int(np.abs(ends * num_ranks - ends[-1] * rank).argmin())
        latest = min(_reach(ends, bounds[-1], capacity), number - (num_ranks - rank))
        bounds.append(min(max(even, earliest[rank], bounds[-1] + 1), latest))
    return bounds


def _reach(ends: np.ndarray, first: int, capacity: int) -> int:
    return int(np.searchsorted(ends, ends[first] + capacity, side="right")) - 1
