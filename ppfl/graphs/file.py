"""A matrix that somebody wrote down."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.core.data_file import DataFile
from ppfl.interfaces.graph import Graph, Weights, refuse_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ppfl.core.plugins import Example

_TOLERANCE = 1e-9
"""Of sums of rows that are to be 1: files are written with so many digits, and no fewer."""


class File(Graph):
    """i – j where the entry of row i and column j is not 0; the entries may be the weights, too.

    A text with one line a node and one number a node in it, separated by spaces or by commas. As an adjacency
    matrix it is of zeros and ones, and weights are those of Metropolis.
    """

    name: Literal["file"]
    example: ClassVar[Example] = {"path": "graph.txt"}
    path: DataFile
    """The text."""
    entries: Literal["adjacency", "weights"] = "adjacency"
    """What its numbers are: weights are symmetric, at least 0, and add up to 1 in each row."""

    def edges(self, num_nodes: int, seed: int) -> Iterable[tuple[int, int]]:
        """Return where the entries are not 0. Raises ValueError for a file that is no such matrix of n nodes."""
        matrix, name = self._matrix, self.path.path.name
        if matrix.shape != (num_nodes, num_nodes):
            rows, columns = matrix.shape
            raise ValueError(
                f"graph.path: {name} has {rows} rows of {columns} numbers, and here are {num_nodes} nodes; one row and "
                "one column a node"
            )
        if not np.isfinite(matrix).all() or (matrix < 0).any():
            raise ValueError(f"graph.path: {name} has numbers that are negative or not finite; all are at least 0")
        uneven = np.argwhere(matrix != matrix.T)
        if len(uneven):
            first, second = uneven[0].tolist()
            raise ValueError(
                f"graph.path: {name} is not symmetric: {matrix[first, second]:g} of nodes {first} and {second}, "
                f"{matrix[second, first]:g} of {second} and {first}"
            )
        if self.entries == "weights":
            self._refuse_sums()
        return zip(*(places.tolist() for places in np.nonzero(np.triu(matrix, 1))), strict=True)

    def weights(self, num_nodes: int, seed: int) -> Weights:
        """Return those of the file, or of Metropolis."""
        if self.entries == "adjacency":
            return super().weights(num_nodes, seed)
        self._neighbours(num_nodes, seed)
        rows = [[(other, weight) for other, weight in enumerate(row) if weight] for row in self._matrix.tolist()]
        return Weights(tuple(tuple(row) for row in rows))

    def check(self, num_nodes: int, seed: int) -> None:
        """Refuse a matrix of other nodes, one that is not connected, and weights under which nodes never agree."""
        neighbours = self._neighbours(num_nodes, seed)
        if self.entries == "weights" and not np.diagonal(self._matrix).any():
            # of eigenvalue −1: two halves that only hear of each other change places for ever
            refuse_parts(f"the graph of two steps along {self.path.path.name}", _two_steps(neighbours))

    def _refuse_sums(self) -> None:
        sums = self._matrix.sum(axis=1)
        wrong = np.flatnonzero(np.abs(sums - 1.0) > _TOLERANCE)
        if len(wrong):
            raise ValueError(
                f"graph.path: {self.path.path.name} is not doubly stochastic: the weights of node {wrong[0]} add up to "
                f"{sums[wrong[0]]:.12g}, and each row and column has to add up to 1"
            )

    @cached_property
    def _matrix(self) -> NDArray[np.float64]:
        name = self.path.path.name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an empty file, which is refused for its shape
                text = self.path.path.read_text(encoding="utf-8").replace(",", " ")
                return np.loadtxt(text.splitlines(), ndmin=2)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            what = " ".join(str(error).split())
            raise ValueError(f"graph.path: {name} is no matrix of numbers, one line a node: {what}") from error


def _two_steps(neighbours: list[list[int]]) -> list[set[int]]:
    return [{far for other in others for far in neighbours[other]} for others in neighbours]
