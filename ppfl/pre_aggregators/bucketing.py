"""Means of random buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import PositiveInt

from ppfl.interfaces.pre_aggregator import PreAggregator, RandomKey

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix


class Bucketing(PreAggregator):
    """y_b = mean of the vectors in bucket b: a random order cut into buckets of `size`, keyed (seed, round, query
    point).

    Source: Karimireddy, He, Jaggi, ICLR 2022, Algorithm 1. ⌈N/size⌉ buckets, of which the last may be smaller. f
    Byzantine vectors spoil at most f buckets.
    """

    name: Literal["bucketing"]
    example: ClassVar[Example] = {"size": 2}
    size: PositiveInt
    """Vectors of a bucket, s."""

    def num_outputs(self, num_vectors: int) -> int:
        """⌈N/s⌉."""
        return -(-num_vectors // self.size)

    def mixing(self, matrix: ClientMatrix, key: RandomKey) -> torch.Tensor:
        """Return 1/(vectors in the bucket) for each of them."""
        number = matrix.num_vectors
        # every rank draws it by itself, from the same key
        order = torch.from_numpy(key.generator("bucketing").permutation(number))
        buckets = torch.arange(number) // self.size
        weights = torch.zeros(self.num_outputs(number), number, dtype=torch.float64)
        weights[buckets, order] = 1.0
        return weights / weights.sum(dim=1, keepdim=True)
