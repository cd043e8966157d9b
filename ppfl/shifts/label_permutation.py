"""Classes that have another number in each cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.core.rng import generator
from ppfl.interfaces.shift import Shift

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.interfaces.dataset import FederatedSamples


class LabelPermutation(Shift):
    """y ← (y + c) mod C in cluster c, C classes over all clients; or y ← π_c(y), π_c drawn by the seed of the data.

    Source: Sattler, Müller, Samek, IEEE TNNLS 2021 (clustered federated learning), where clusters have permuted labels.
    """

    name: Literal["label_permutation"]
    example: ClassVar[Example] = {"clusters": 3}
    permutation: Literal["cyclic", "drawn"] = "cyclic"
    """Which permutation; cluster 0 keeps its labels either way."""

    def most_clusters(self, num_classes: int) -> int | None:
        """As many as classes where labels go round; that drawn permutations differ is likely, and not made sure of."""
        return num_classes if self.permutation == "cyclic" else None

    def unsuited(self, samples: FederatedSamples) -> str:
        """Labels that are classes, one a sample."""
        labels = [pack.y for pack in samples.parts.packs]
        are_classes = samples.label_shape == () and all(y.dtype.kind != "f" for y in labels)
        return "" if are_classes else "labels that are classes, one a sample"

    def relabelled(self, y: np.ndarray, cluster: int, num_classes: int, seed: int) -> np.ndarray:
        """Return labels (S,) permuted."""
        if not cluster:
            return y
        if self.permutation == "cyclic":
            return (y + cluster) % num_classes
        drawn = generator(seed, "label permutation", client=cluster).permutation(num_classes)
        labels: np.ndarray = drawn[y]
        return labels
