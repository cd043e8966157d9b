"""Who takes part in a round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from ppfl.core.rng import generator
from ppfl.interfaces.cohort_size import cohort_size

if TYPE_CHECKING:
    from ppfl.interfaces.client_data import ClientData


class CohortSampler:
    """Uniform sampling of clients without replacement, the same on every rank.

    cohort: "all", a number of clients, or a fraction of those with training samples, rounded half to even, at
    least one. Clients without training samples never take part. Raises ValueError when more are wanted than there are.
    """

    def __init__(self, data: ClientData, cohort: Literal["all"] | int | float, seed: int) -> None:
        self._eligible = [client for client, samples in enumerate(data.num_train_samples) if samples > 0]
        self._choices = np.array(self._eligible)
        self._seed = seed
        self.size = cohort_size(cohort, len(self._eligible))
        if not 1 <= self.size <= len(self._eligible):
            raise ValueError(f"{cohort} clients wanted, {len(self._eligible)} have training samples")

    @property
    def eligible(self) -> tuple[int, ...]:
        """Clients with training samples, ascending."""
        return tuple(self._eligible)

    @property
    def is_full(self) -> bool:
        """True when every client with samples takes part in every round."""
        return self.size == len(self._eligible)

    @property
    def participation(self) -> float:
        """Size of the cohort over the number of clients with samples, in (0, 1]."""
        return self.size / len(self._eligible)

    def __call__(self, round: int) -> frozenset[int]:
        """Return the clients of a round."""
        if self.is_full:
            return frozenset(self._eligible)
        draw = generator(self._seed, "cohort", round=round)
        chosen: list[int] = draw.choice(self._choices, self.size, replace=False).tolist()
        return frozenset(chosen)

    def position(self, num_choices: int, draw: int) -> int:
        """Return draw number `draw` of one out of several; out of all clients it is the cohort of one of that round."""
        return int(generator(self._seed, "cohort", round=draw).choice(num_choices, 1, replace=False)[0])
