"""Random graphs of independent edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ppfl.core.rng import generator
from ppfl.interfaces.graph import Graph, neighbours_of, reached

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ppfl.core.plugins import Example

_DRAWS = 100
"""After which a probability counts as too small."""


class ErdosRenyi(Graph):
    """i – j with a probability p, independently, drawn by the seed of the run until the graph is connected.

    Source: Gilbert 1959; G(n, p) given that it is connected. The k-th draw is keyed by k, and the first connected one
    is taken, at most of 100: with p ≥ 2 ln(n)/n nearly every one is.
    """

    name: Literal["erdos_renyi"]
    example: ClassVar[Example] = {"probability": 0.8}
    probability: Annotated[float, Field(gt=0, le=1)]
    """p."""

    def edges(self, num_nodes: int, seed: int) -> Iterable[tuple[int, int]]:
        """Return the edges of the first connected draw. Raises ValueError where there is none."""
        # each pair once, and always in this order: the k-th number drawn is that of the k-th pair
        first, second = np.triu_indices(num_nodes, 1)
        for draw in range(_DRAWS):
            there = generator(seed, "edges", round=draw).random(len(first)) < self.probability
            edges = list(zip(first[there].tolist(), second[there].tolist(), strict=True))
            if len(reached(neighbours_of(num_nodes, edges))) == num_nodes:
                return edges
        raise ValueError(
            f"graph.probability: none of {_DRAWS} graphs of {num_nodes} nodes drawn with {self.probability:g} is "
            f"connected; most are from 2 ln(n)/n = {2.0 * np.log(num_nodes) / num_nodes:.2g} on"
        )
