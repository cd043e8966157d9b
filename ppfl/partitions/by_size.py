"""Samples dealt at random to clients of unequal sizes."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from ppfl.core.plugins import refusal
from ppfl.core.rng import generator
from ppfl.interfaces.partition import Partition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.plugins import Example


class BySize(Partition):
    """A random permutation of the samples cut into M pieces: one sample for each, and the rest so that sizes are as
    nearly as can be in proportion to m^(−spread), to exp(spread·z_m) with z_m ~ N(0, 1), or to given numbers.

    Given numbers that add up to S are the sizes. Of pieces whose quotas are rounded down, those that lost most get one
    more, the first of equals first.
    Source: Li et al., MLSys 2020 (FedProx), whose data have sizes by a power law, and log-normal ones in its code.
    """

    name: Literal["by_size"]
    example: ClassVar[Example] = {"clients": 6, "sizes": "log_normal"}
    sizes: Literal["power_law", "log_normal"] | Annotated[tuple[PositiveInt, ...], Field(strict=False)]
    """A law of sizes, or the sizes of all clients, up to a common factor."""
    spread: float = Field(default=1.0, ge=0, le=10)
    """Exponent of the power law, standard deviation of the logarithm of a log-normal size; 0: all alike."""

    @model_validator(mode="after")
    def _one_for_each_client(self) -> Self:
        if not isinstance(self.sizes, str):
            if len(self.sizes) != self.clients:
                raise refusal("sizes", f"one for each of the {self.clients} clients; there are {len(self.sizes)}")
            if self.spread != 1.0:
                raise refusal("spread", "nothing, since the sizes are given")
        return self

    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return for each client the ascending indices of its samples."""
        self.check(len(labels))
        random = generator(seed, "partition")
        order = random.permutation(len(labels))
        cuts = np.cumsum(self._numbers(len(labels), random))[:-1]
        return [np.sort(piece) for piece in np.split(order, cuts)]

    def _numbers(self, total: int, random: np.random.Generator) -> np.ndarray:
        """Return how many samples each client gets, (M,) int64, all ≥ 1."""
        if self.sizes == "power_law":
            wanted = np.arange(1, self.clients + 1, dtype=np.float64) ** -self.spread
        elif self.sizes == "log_normal":
            wanted = np.exp(self.spread * random.standard_normal(self.clients))
        else:
            # without a rounding: those that add up are met exactly, and equal remainders are equal
            given = [int(size) for size in self.sizes]
            return _apportioned([Fraction(total * size, sum(given)) for size in given], total)
        return _apportioned((total * (wanted / wanted.sum())).tolist(), total)


def _apportioned(quotas: Sequence[Fraction | float], total: int) -> np.ndarray:
    """Round quotas, which add up to the total, to integers ≥ 1 that do: by largest remainders."""
    numbers = np.array([max(int(quota), 1) for quota in quotas], dtype=np.int64)
    left = total - int(numbers.sum())
    lost = [quota - number for quota, number in zip(quotas, numbers.tolist(), strict=True)]
    # sorting is stable
    takers = sorted(range(len(lost)), key=lost.__getitem__, reverse=True)[: max(left, 0)]
    numbers[takers] += 1
    for _ in range(-left):
        numbers[int(numbers.argmax())] -= 1
    return numbers
