"""Multi-Krum: the mean of the vectors whose neighbours are nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import NonNegativeInt, PositiveInt

from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.pre_aggregator import Bound, few_neighbours
from ppfl.rows.gram import krum_scores, mean_of, smallest

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix


class MultiKrum(Aggregator):
    """Mean of the `keep` vectors with the smallest scores of Krum.

    Source: Blanchard et al., NeurIPS 2017, Section 6 (m-Krum). Ties go to the lowest index.
    """

    name: Literal["multi_krum"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most."""
    keep: PositiveInt | None = None
    """Vectors that the mean is taken of; default N − f. Like f it shrinks, not below 1, by vectors left out."""

    def bound(self) -> Bound:
        """N >= 2f + 3 and N >= keep."""
        few = few_neighbours(self.f)
        if self.keep is None or self.keep <= few.fewest:
            return few
        return Bound(self.keep, f"N >= keep with keep = {self.keep}")

    def without(self, removed: int) -> Self:
        """Return the rule with smaller f and `keep`."""
        smaller = super().without(removed)
        return smaller.model_copy(update={"keep": max(self.keep - removed, 1)}) if self.keep else smaller

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the mean, shape (D,)."""
        scores = krum_scores(matrix.gram(), self.f)
        return matrix.combine(mean_of(smallest(scores[None, :], self.keep or matrix.num_vectors - self.f)[0]))
