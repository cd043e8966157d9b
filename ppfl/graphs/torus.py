"""A torus."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ppfl.interfaces.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ppfl.core.plugins import Example

_SMALLEST = 3


class Torus(Graph):
    """Rows and columns of nodes, each of them a ring: four neighbours each, weights of 1/5.

    Node i is in row ⌊i/columns⌋, the first one of each row beside the last one, too.
    """

    name: Literal["torus"]
    example: ClassVar[Example] = {"rows": 3, "columns": 3}
    rows: int = Field(ge=_SMALLEST)
    """At least 3: of two, nodes would be each other's neighbours twice."""
    columns: int = Field(ge=_SMALLEST)
    """At least 3."""

    def edges(self, num_nodes: int, seed: int) -> Iterable[tuple[int, int]]:
        """Return 2n edges, n = rows · columns."""
        if self.rows * self.columns != num_nodes:
            raise ValueError(
                f"graph.rows: {self.rows} rows of {self.columns} nodes are {self.rows * self.columns}, and here are "
                f"{num_nodes}; rows · columns has to be that"
            )
        for node in range(num_nodes):
            row, column = divmod(node, self.columns)
            # to the right and down; neighbours on the other sides say so themselves
            yield node, row * self.columns + (column + 1) % self.columns
            yield node, (row + 1) % self.rows * self.columns + column
