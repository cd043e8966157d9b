"""A ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppfl.interfaces.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterable

_SMALLEST = 3


class Ring(Graph):
    """i – i + 1 mod n: two neighbours each, weights of 1/3."""

    name: Literal["ring"]

    def edges(self, num_nodes: int, seed: int) -> Iterable[tuple[int, int]]:
        """Return n edges, n ≥ 3."""
        if num_nodes < _SMALLEST:
            raise ValueError(
                f"graph: a ring has at least {_SMALLEST} nodes, each with two neighbours, and here are {num_nodes}; "
                "use 'complete'"
            )
        return [(node, (node + 1) % num_nodes) for node in range(num_nodes)]
