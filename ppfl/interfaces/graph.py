"""Graphs of clients that are nodes, and the weights with which neighbours count for each other."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.plugins import PlugIn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

LARGEST_WITH_GAP = 2048
"""Nodes of the largest graph whose spectral gap is told: of larger ones it would take longer than a round."""


@dataclass(frozen=True)
class Weights:
    """W, symmetric and doubly stochastic: of each node i its w_ij > 0 in the order of j, w_ii among them."""

    rows: tuple[tuple[tuple[int, float], ...], ...]

    @property
    def num_nodes(self) -> int:
        """Return how many nodes there are."""
        return len(self.rows)

    def neighbours(self, node: int) -> list[int]:
        """Return the others that a node sends to, and hears of, ascending."""
        return [other for other, _ in self.rows[node] if other != node]

    @property
    def num_edges(self) -> int:
        """Return how many pairs of nodes are neighbours."""
        return sum(len(self.neighbours(node)) for node in range(self.num_nodes)) // 2

    def matrix(self) -> NDArray[np.float64]:
        """Return W, one row a node."""
        dense = np.zeros((self.num_nodes, self.num_nodes))
        for node, row in enumerate(self.rows):
            for other, weight in row:
                dense[node, other] = weight
        return dense

    def spectral_gap(self) -> float:
        """Return ρ = 1 − |λ₂(W)|, λ₂ the second largest eigenvalue by absolute value; 1 of a single node."""
        # W is symmetric, so that eigenvalues are real; the largest is 1, of all nodes alike
        sizes = np.sort(np.abs(np.linalg.eigvalsh(self.matrix())))
        return float(1.0 - (sizes[-2] if len(sizes) > 1 else 0.0))

    def facts(self) -> dict[str, float]:
        """Return what a result keeps of it: the number of edges and, unless there are too many nodes, ρ."""
        # bytes over edges by them are bits of a message, as papers count; how fast nodes agree depends on ρ alone
        found = {"num_edges": float(self.num_edges)}
        return found if self.num_nodes > LARGEST_WITH_GAP else {**found, "spectral_gap": self.spectral_gap()}


class Graph(PlugIn):
    """Who is whose neighbour: undirected, connected, without loops; nodes are clients by number.

    A graph says its edges:

    >>> from typing import Literal
    >>> from ppfl.interfaces.graph import Graph
    >>> class Path(Graph):
    ...     name: Literal["path"]
    ...
    ...     def edges(self, num_nodes, seed):
    ...         return [(node, node + 1) for node in range(num_nodes - 1)]
    >>> path = Path(name="path")
    >>> path.check(3, seed=0)
    >>> [[round(w, 3) for _, w in row] for row in path.weights(3, seed=0).rows]
    [[0.667, 0.333], [0.333, 0.333, 0.333], [0.333, 0.667]]
    """

    @abstractmethod
    def edges(self, num_nodes: int, seed: int) -> Iterable[tuple[int, int]]:
        """Return pairs of neighbours, each in any order and as often as one likes; `seed` is the run's.

        Raises ValueError, beginning with the key, for so many nodes as it is not defined for.
        """

    def weights(self, num_nodes: int, seed: int) -> Weights:
        """Return w_ij = 1/(1 + max(degree of i, of j)) of neighbours, what is missing to 1 on the diagonal.

        Source: the weights of Metropolis and Hastings, as in Xiao, Boyd, Kim 2007. Raises ValueError as `edges`, and
        where the graph is not connected.
        """
        return metropolis(self._neighbours(num_nodes, seed))

    def check(self, num_nodes: int, seed: int) -> None:
        """Raise ValueError, beginning with the key, for so many nodes as it is not defined for, or not connected."""
        self._neighbours(num_nodes, seed)

    def _neighbours(self, num_nodes: int, seed: int) -> list[list[int]]:
        neighbours = neighbours_of(num_nodes, self.edges(num_nodes, seed))
        refuse_parts(self.name, neighbours)
        return neighbours


def neighbours_of(num_nodes: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the neighbours of every node, ascending."""
    found: list[set[int]] = [set() for _ in range(num_nodes)]
    for first, second in edges:
        found[first].add(second)
        found[second].add(first)
    # a node counts for itself by what its neighbours leave over, and not by a loop
    return [sorted(others - {node}) for node, others in enumerate(found)]


def reached(neighbours: Sequence[Collection[int]]) -> set[int]:
    """Return the nodes that there is a path to from node 0."""
    # a queue, as a long ring is deeper than calls of a function may be
    seen, waiting = {0}, deque([0])
    while waiting:
        for other in neighbours[waiting.popleft()]:
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return seen


def refuse_parts(name: str, neighbours: Sequence[Collection[int]]) -> None:
    """Raise ValueError, beginning with the key, where the graph is not connected."""
    seen = reached(neighbours)
    if len(seen) < len(neighbours):
        lonely = min(set(range(len(neighbours))) - seen)
        raise ValueError(
            f"graph: {name} is not connected: of {len(neighbours)} nodes {len(seen)} can be reached from node 0, and "
            f"node {lonely} cannot; what some know would never get to the others"
        )


def metropolis(neighbours: Sequence[Sequence[int]]) -> Weights:
    """Return 1/(1 + max(degrees)) of neighbours, what is missing to 1 on the diagonal."""
    rows = []
    for node, others in enumerate(neighbours):
        row = {other: 1.0 / (1 + max(len(others), len(neighbours[other]))) for other in others}
        # rows then sum to 1, and so do columns, as W is symmetric
        row[node] = 1.0 - sum(row.values())
        rows.append(tuple(sorted(row.items())))
    return Weights(tuple(rows))
