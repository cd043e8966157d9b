"""A star."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppfl.interfaces.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterable


class Star(Graph):
    """0 – i: the first node is everybody's only neighbour."""

    name: Literal["star"]

    def edges(self, num_nodes: int, seed: int) -> Iterable[tuple[int, int]]:
        """Return n − 1 edges."""
        return [(0, node) for node in range(1, num_nodes)]
