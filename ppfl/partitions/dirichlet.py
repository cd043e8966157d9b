"""Each class spread over clients in random proportions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from ppfl.core.rng import generator
from ppfl.interfaces.partition import Partition, fill_up, refuse_numbers

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class Dirichlet(Partition):
    """For each class draw p ~ Dirichlet(α·1_M) and give client m the fraction p_m of its samples.

    Source: Hsu, Qi, Brown, arXiv 1909.06335, in the form by class of Yurochkin et al., ICML 2019. No draw is ever
    rejected: as long as a client has fewer than `min_samples`, the smallest client (the first of equals) takes one
    sample from the largest one (the first of equals), the last that it was given.
    """

    name: Literal["dirichlet"]
    example: ClassVar[Example] = {"clients": 6, "alpha": 0.5}
    alpha: float = Field(ge=1e-3, le=1e6)
    """α; small: few classes a client and unequal sizes, large: close to iid."""
    min_samples: PositiveInt = 1
    """Fewest samples of a client."""

    @property
    def num_samples_needed(self) -> int:
        """`min_samples` for each client."""
        return self.clients * self.min_samples

    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return for each client the ascending indices of its samples."""
        self.check(len(labels))
        refuse_numbers(labels, self.name)
        random = generator(seed, "partition")
        hands: list[list[int]] = [[] for _ in range(self.clients)]
        for label in np.unique(labels):
            members = random.permutation(np.flatnonzero(labels == label))
            proportions = random.dirichlet(np.full(self.clients, self.alpha))
            # cumulated before rounding, so that the pieces have all members whatever the proportions add up to
            cuts = np.rint(np.cumsum(proportions)[:-1] * len(members)).astype(np.int64)
            for hand, piece in zip(hands, np.split(members, cuts), strict=True):
                hand.extend(piece.tolist())
        fill_up(hands, self.min_samples)
        return [np.sort(np.array(hand, dtype=np.int64)) for hand in hands]
