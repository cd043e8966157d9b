"""What of the samples is scored: which parts, how many samples of each, whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppfl.core.rng import generator

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ppfl.interfaces.client_data import Part
    from ppfl.interfaces.trigger import Probe


ORDER_OF_SCORES: tuple[Part, ...] = ("test", "validation", "train")


@dataclass(frozen=True)
class Selection:
    """Parts in the order of scores, and limits; the same on all ranks and throughout a run."""

    parts: tuple[Part, ...] = ORDER_OF_SCORES[:2]
    max_samples: int | None = None
    """Most samples of a client and part; None: all."""
    clients: frozenset[int] | None = None
    """Clients of all ranks that are scored; None: all."""
    seed: int = 0
    """Of the choice of samples."""
    probe: Probe | None = None
    """What samples are also scored with, where attackers have a trigger."""

    def has(self, client: int) -> bool:
        """Say whether a client is scored."""
        return self.clients is None or client in self.clients

    def clients_in(self, clients: range) -> Sequence[int]:
        """Return which of some clients are scored, ascending."""
        return clients if self.clients is None else sorted(client for client in self.clients if client in clients)

    def is_whole(self, num_samples: int) -> bool:
        """Say whether all S samples of a part are scored."""
        return self.max_samples is None or num_samples <= self.max_samples

    def rows(self, part: Part, client: int, num_samples: int) -> torch.Tensor:
        """Return the rows of a part of S samples that are scored, ascending int64; keyed (seed, part, client)."""
        if self.max_samples is None or num_samples <= self.max_samples:
            return torch.arange(num_samples)
        draw = generator(self.seed, f"scored {part}", client=client)
        return torch.from_numpy(np.sort(draw.choice(num_samples, self.max_samples, replace=False)))

    def weights(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return how many samples of a part are scored, given the sizes of the part of all M clients."""
        weights = np.minimum(sizes, self.max_samples or np.iinfo(np.int64).max)
        if self.clients is not None:
            there = np.isin(np.arange(len(weights)), list(self.clients))
            weights = np.where(there, weights, 0)
        return tuple(weights.tolist())


def draw_clients(number: int, choices: Collection[int], seed: int) -> frozenset[int]:
    """Return so many of the clients, keyed by the seed alone. Raises ValueError where there are fewer."""
    if number > len(choices):
        raise ValueError(f"{number} of {len(choices)} honest clients with training samples; take at most all of them")
    draw = generator(seed, "scored clients").choice(sorted(choices), number, replace=False)
    return frozenset(draw.tolist())
