"""Samples dealt to clients at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.core.rng import generator
from ppfl.interfaces.partition import Partition

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class IID(Partition):
    """A random permutation of the samples cut into M pieces whose sizes differ by at most one."""

    name: Literal["iid"]
    example: ClassVar[Example] = {"clients": 6}

    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return for each client the ascending indices of its samples."""
        self.check(len(labels))
        order = generator(seed, "partition").permutation(len(labels))
        return [np.sort(piece) for piece in np.array_split(order, self.clients)]
