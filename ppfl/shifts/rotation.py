"""Images turned by another angle in each cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.interfaces.shift import Shift

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.interfaces.dataset import FederatedSamples


class Rotation(Shift):
    """Images of cluster c turned by c · `degrees`, counter-clockwise: pixels are moved, none is computed.

    Source: Ghosh, Chung, Yin, Ramchandran, NeurIPS 2020 (IFCA), rotated MNIST with 4 clusters of 90°.
    """

    name: Literal["rotation"]
    example: ClassVar[Example] = {"clusters": 4}
    degrees: Literal[90, 180, 270] = 90
    """Between neighbouring clusters; images that are not square can be turned by 180 alone."""

    def most_clusters(self, num_classes: int) -> int:
        """Four, or two by 180°: then images are as they were."""
        return 2 if self.degrees == 180 else 4

    def unsuited(self, samples: FederatedSamples) -> str:
        """Images, (channels, height, width)."""
        shape = samples.input_shape
        if len(shape) != 3 or samples.vocabulary_size is not None:
            return "images (channels, height, width)"
        return "" if self.degrees == 180 or shape[1] == shape[2] else "square images, with degrees: 180 for others"

    def moved(self, x: np.ndarray, cluster: int) -> np.ndarray:
        """Return images (S, channels, height, width) turned."""
        return np.rot90(x, cluster * self.degrees // 90, axes=(2, 3))
