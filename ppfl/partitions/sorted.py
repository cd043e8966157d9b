"""Samples sorted by label, cut into as many pieces as there are clients, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.interfaces.partition import Partition

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class Sorted(Partition):
    """Sort by label, cut into M pieces whose sizes differ by at most one, and give client m piece m; nothing is drawn.

    Clients that follow each other have the same labels, so that on a ring neighbours are alike: `shards` with one shard
    a client deals the same pieces at random.
    Source: the experiments of Koloskova et al., ICML 2019, Section 5 ("sorted"), and of Islamov et al., 2024.
    """

    name: Literal["sorted"]
    example: ClassVar[Example] = {"clients": 6}

    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return for each client the ascending indices of its samples."""
        self.check(len(labels))
        # stable: other sorts order equal labels by whatever their algorithm does
        return [np.sort(piece) for piece in np.array_split(np.argsort(labels, kind="stable"), self.clients)]
