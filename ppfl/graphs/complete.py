"""Everybody with everybody."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Literal

from ppfl.interfaces.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterable


class Complete(Graph):
    """i – j for all i ≠ j: weights of 1/n, a mean in one exchange; of a single node there is nobody to send to."""

    name: Literal["complete"]

    def edges(self, num_nodes: int, seed: int) -> Iterable[tuple[int, int]]:
        """Return n(n − 1)/2 edges."""
        return combinations(range(num_nodes), 2)
