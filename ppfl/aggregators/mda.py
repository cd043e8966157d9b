"""Minimum-diameter averaging."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import NonNegativeInt

from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.pre_aggregator import Bound, majority
from ppfl.rows.gram import TIE, lowest, mean_of, smallest, squared_distances

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix

MAX_SUBSETS = 50_000
"""Subsets that are enumerated at most."""


class MDA(Aggregator):
    """Mean of the N − f vectors whose largest distance to each other is the smallest.

    Source: El-Mhamdi et al., arXiv 1911.07537 (minimum-diameter averaging, after Rousseeuw 1985). Exact while there
    are at most 50,000 subsets of N − f vectors, e.g. f = 3 of 50 or f = 6 of 20; ties go to the subset that comes first
    in the order of indices. Beyond that, of the N subsets made of a vector and its N − f − 1 nearest ones, the one of
    least diameter, ties to the lowest index: at most twice the least diameter, by the triangle inequality.
    """

    name: Literal["mda"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most."""

    def bound(self) -> Bound:
        """f < N/2."""
        return majority(self.f)

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the mean, shape (D,)."""
        distances = squared_distances(matrix.gram())
        exact = math.comb(len(distances), self.f) <= MAX_SUBSETS
        return matrix.combine(mean_of(_of_least_diameter(distances, self.f) if exact else _balls(distances, self.f)))


def _of_least_diameter(distances: torch.Tensor, f: int) -> torch.Tensor:
    """Mark the subset, (N,) bool: go through pairs from the farthest on and drop the subsets that contain both."""
    number = len(distances)
    left_out = _subsets(number, f)
    first, second = torch.triu_indices(number, number, offset=1)
    order = distances[first, second].argsort(descending=True, stable=True)
    pairs = list(zip(first[order].tolist(), second[order].tolist(), strict=True))
    position = 0
    while position < len(pairs):
        # pairs that are equally far but for rounding are dropped together, or rounding would choose among them
        limit = float(distances[pairs[position]]) * (1.0 - TIE)
        survivors = left_out
        while position < len(pairs) and float(distances[pairs[position]]) >= limit:
            i, j = pairs[position]
            survivors = survivors[survivors[:, i] | survivors[:, j]]
            position += 1
        # every subset that is left has such a pair: this is the least diameter, and all of them have it
        if not len(survivors):
            break
        left_out = survivors
    # the last set of removed indices leaves the first one of kept indices
    return ~left_out[-1]


@lru_cache(maxsize=4)
def _subsets(number: int, size: int) -> torch.Tensor:
    """Mark all subsets of a size, (subsets, N) bool, in the order of their indices."""
    members = torch.tensor(list(combinations(range(number), size)), dtype=torch.int64)
    return torch.zeros(len(members), number, dtype=torch.bool).scatter_(1, members, True)


def _balls(distances: torch.Tensor, f: int) -> torch.Tensor:
    """Mark the best of the subsets of nearest neighbours, (N,) bool."""
    nearest = smallest(distances, len(distances) - f)
    diameters = torch.stack([distances[ball][:, ball].max() for ball in nearest])
    return nearest[lowest(diameters)]
