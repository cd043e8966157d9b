"""A little is enough (ALIE)."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from ppfl.interfaces.attack import AttackOnVectors, Block, Knowledge
from ppfl.interfaces.attack_with_factor import AttackWithFactor

if TYPE_CHECKING:
    import torch

    from ppfl.rows.client_matrix import ClientMatrix


class LittleIsEnough(AttackWithFactor):
    """x_a ← μ − factor · σ, mean and standard deviation of each coordinate over the honest vectors.

    Source: Baruch, Baruch, Goldberg, NeurIPS 2019, Algorithm 3. `published` is its z_max = Φ⁻¹((H − s)/H) with H honest
    ones among N and s = ⌊N/2⌋ + 1 − (N − H): so many of them have to be farther from the mean for the attackers to be
    in the majority. It is 0 or less, and no attack, for one attacker and for two among an even N. `optimal`: the factor
    that takes the aggregate of this round farthest from the honest mean, by a line search of 16 aggregations.
    """

    name: Literal["little_is_enough"]
    # `published` is beside what all such attacks take
    factor: PositiveFloat | Literal["published", "optimal"] = "published"  # type: ignore[assignment]
    """z."""

    def check(self, num_vectors: int, num_byzantine: int | None) -> None:
        """Refuse one honest vector, which has no σ, and `published` where it is no attack or another one a round."""
        if num_byzantine is not None and num_vectors - num_byzantine < 2:
            raise ValueError("name: one honest vector has no standard deviation to hide in: take another attack")
        if self.factor != "published":
            return
        if num_byzantine is None:
            raise ValueError(
                "factor: 'published' follows from the number of attackers, which varies by round with a sampled "
                "cohort and by step with a buffer: give a number"
            )
        found = _published(num_vectors, num_byzantine)
        if found <= 0.0:
            raise ValueError(
                f"factor: with {num_byzantine} of {num_vectors} attackers the published factor is {_rounded(found)}, "
                f"no attack: give a number"
            )

    def prepare(self, matrix: ClientMatrix, byzantine: torch.Tensor, knowledge: Knowledge) -> AttackOnVectors:
        """Choose the factor. Collective."""
        if self.factor == "published":
            return self.model_copy(update={"factor": _published(len(byzantine), int(byzantine.sum()))})
        return super().prepare(matrix, byzantine, knowledge)

    def vectors(self, block: Block, knowledge: Knowledge) -> torch.Tensor:
        """Return μ − factor · σ."""
        # of all honest vectors, which are not a sample of more
        spread = block.honest.std(dim=0, keepdim=True, correction=0)
        return block.honest.mean(dim=0, keepdim=True) - self.number * spread


def _published(num_vectors: int, num_byzantine: int) -> float:
    num_honest = num_vectors - num_byzantine
    supporters = num_vectors // 2 + 1 - num_byzantine
    share = (num_honest - supporters) / num_honest
    if share <= 0.0:
        return -math.inf
    # beyond this, nobody honest is left to be farther away: about all of them are nearer than that
    return NormalDist().inv_cdf(min(share, 1.0 - 0.5 / num_honest))


def _rounded(number: float) -> str:
    return f"{number:.2f}".replace("-", "−") if number else "0"
