"""Where and in what precision a problem lives, and how its clients are dealt to ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.balance import balanced_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ppfl.core.communicator import Communicator
    from ppfl.interfaces.byzantine import Byzantine


@dataclass(frozen=True)
class Placement:
    """Where and in what precision a problem lives, and which clients' data this rank holds."""

    communicator: Communicator
    data_seed: int
    """Seed of the data: what is generated, partitioned or set aside for validation."""
    seed: int
    """Seed of everything drawn during a run: initial values, batches, fresh local parameters."""
    dtype: torch.dtype
    device: torch.device
    byzantine: Byzantine | None = None
    """Attackers, some of whom may be clients of the problem."""
    body_dtype: torch.dtype | None = None
    """What all stages of a model but the last one compute in; None: in `dtype`."""
    samples_a_round: int | None = None
    """Most samples of a client that a round uses; None: all that it has."""

    def byzantine_clients(self, client_names: Sequence[str], num_train_samples: Sequence[int]) -> frozenset[int]:
        """Return the clients that are Byzantine: scores and theory leave them out, the engine lets them attack."""
        if self.byzantine is None:
            return frozenset()
        return self.byzantine.members(client_names, num_train_samples, self.seed)

    def clients_of_rank(self, num_samples: Sequence[int], clients_per_chunk: int = 1) -> range:
        """Contiguous clients of this rank, in whole chunks; the largest sum of samples that a round uses is least."""
        used = np.minimum(num_samples, self.samples_a_round or np.iinfo(np.int64).max)
        chunks = np.add.reduceat(used, range(0, len(used), clients_per_chunk))
        bounds = balanced_bounds(chunks, self.communicator.size)
        first, last = bounds[self.communicator.rank : self.communicator.rank + 2]
        return range(first * clients_per_chunk, min(last * clients_per_chunk, len(num_samples)))
