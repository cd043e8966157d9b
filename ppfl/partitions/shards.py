"""Samples sorted by label, cut into shards, a few shards a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from ppfl.core.rng import generator
from ppfl.interfaces.partition import Partition

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class Shards(Partition):
    """Sort by label, cut into M·k shards whose sizes differ by at most one, deal k shards to each client at random.

    Source: McMahan et al., AISTATS 2017, Section 3 (there k = 2).
    """

    name: Literal["shards"]
    example: ClassVar[Example] = {"clients": 6}
    shards_per_client: PositiveInt = 2
    """k; the fewer, the fewer classes a client sees."""

    @property
    def num_samples_needed(self) -> int:
        """One for each shard."""
        return self.clients * self.shards_per_client

    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return for each client the ascending indices of its samples."""
        self.check(len(labels))
        # stable: other sorts order equal labels by whatever their algorithm does
        shards = np.array_split(np.argsort(labels, kind="stable"), self.num_samples_needed)
        dealt = generator(seed, "partition").permutation(len(shards)).reshape(self.clients, self.shards_per_client)
        return [np.sort(np.concatenate([shards[shard] for shard in hand])) for hand in dealt]
