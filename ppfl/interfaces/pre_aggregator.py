"""What rules do to the vectors of clients before they aggregate them, and the key of their random choices."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppfl.core.params import ratio
from ppfl.core.plugins import PlugIn
from ppfl.core.rng import generator

if TYPE_CHECKING:
    import numpy as np

    from ppfl.rows.client_matrix import ClientMatrix


@dataclass(frozen=True)
class RandomKey:
    """What random choices are keyed by: the seed of the run, the round and, where there are such, the query point."""

    seed: int = 0
    round: int = 0
    query: int | None = None
    """Client at whose query point the vectors are gradients: each has draws of its own. None: there is one θ."""

    def generator(self, purpose: str, client: int = 0) -> np.random.Generator:
        """Return what draws for a purpose, and for each client of its own."""
        where = purpose if self.query is None else f"{purpose} at query point {self.query}"
        return generator(self.seed, where, round=self.round, client=client)


@dataclass(frozen=True)
class Bound:
    """Fewest vectors that a rule is defined for, and the inequality that says so."""

    fewest: int
    inequality: str

    def check(self, where: str, num_vectors: int, origin: str = "") -> None:
        """Raise ValueError, with the inequality, when there are fewer."""
        if num_vectors < self.fewest:
            raise ValueError(
                f"{where} needs {self.inequality}, here at least {self.fewest} vectors; there are {num_vectors}{origin}"
            )


def majority(f: int) -> Bound:
    """f < N/2."""
    return Bound(2 * f + 1, f"f < N/2 with f = {f}")


def few_neighbours(f: int) -> Bound:
    """N >= 2f + 3, which leaves every vector N − f − 2 >= f + 1 neighbours."""
    return Bound(2 * f + 3, f"N >= 2f + 3 with f = {f}")


class PreAggregator(PlugIn):
    """N client vectors in, N' out, each a weighted sum of the old ones.

    It says with which weights, and costs no pass over the vectors:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.rows.client_matrix import ClientMatrix
    >>> from ppfl.interfaces.pre_aggregator import RandomKey, PreAggregator
    >>> class Neighbours(PreAggregator):
    ...     name: Literal["neighbours"]
    ...
    ...     def mixing(self, matrix, key):
    ...         one = torch.eye(matrix.num_vectors, dtype=torch.float64)
    ...         return (one + one.roll(1, dims=1)) / 2
    >>> vectors = torch.tensor([[0.0], [2.0], [6.0]])
    >>> mixed = Neighbours(name="neighbours")(ClientMatrix(SoloCommunicator(), vectors, 1), RandomKey())
    >>> mixed.norms()
    tensor([1., 4., 3.], dtype=torch.float64)
    """

    def bound(self) -> Bound:
        """Return how many vectors it takes at least."""
        return Bound(1, "N >= 1")

    def num_outputs(self, num_vectors: int) -> int:
        """N' for N."""
        return num_vectors

    @abstractmethod
    def mixing(self, matrix: ClientMatrix, key: RandomKey) -> torch.Tensor:
        """Return the weights of the new vectors, (N', N) float64. Collective."""

    def __call__(self, matrix: ClientMatrix, key: RandomKey) -> ClientMatrix:
        """Return the new vectors. Collective."""
        return matrix.mix(self.mixing(matrix, key))


class NormClipping(PreAggregator):
    """y_i = x_i · min(1, c/‖x_i‖), c the largest norm that is left.

    It says what c is:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.rows.client_matrix import ClientMatrix
    >>> from ppfl.interfaces.pre_aggregator import RandomKey, NormClipping
    >>> class ToTheMedian(NormClipping):
    ...     name: Literal["to_the_median"]
    ...
    ...     def largest(self, norms):
    ...         return norms.median()
    >>> vectors = torch.tensor([[1.0], [2.0], [6.0]])
    >>> clipped = ToTheMedian(name="to_the_median")(ClientMatrix(SoloCommunicator(), vectors, 1), RandomKey())
    >>> clipped.exact_norms()
    tensor([1., 2., 2.], dtype=torch.float64)
    """

    @abstractmethod
    def largest(self, norms: torch.Tensor) -> torch.Tensor:
        """Return c, (), given the norms of all vectors, (N,)."""

    def mixing(self, matrix: ClientMatrix, key: RandomKey) -> torch.Tensor:
        """Return the factors, on the diagonal."""
        norms = matrix.norms()
        largest = self.largest(norms)
        return torch.diag(torch.where(norms > largest, ratio(largest, norms), 1.0))

    def __call__(self, matrix: ClientMatrix, key: RandomKey) -> ClientMatrix:
        """Return the new vectors, which know that all that were clipped are equally long. Collective."""

        def norms() -> torch.Tensor:
            exact = matrix.exact_norms()
            return exact.minimum(self.largest(exact))

        return matrix.mix(self.mixing(matrix, key), norms)
