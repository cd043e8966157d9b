"""Handwritten digits that ship with scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.interfaces.centralized import CentralizedDataset
from ppfl.interfaces.dataset import Samples

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class Digits(CentralizedDataset):
    """1797 grey images (1, 8, 8) of 10 digits, scaled to [0, 1], split over clients by a partition.

    Source: Alpaydin & Kaynak, UCI Optical Recognition of Handwritten Digits (its test part), through
    `sklearn.datasets.load_digits`.
    """

    name: Literal["digits"]
    example: ClassVar[Example] = {"partition": {"name": "iid", "clients": 6}}
    num_samples: ClassVar[int] = 1797
    divisor: ClassVar[float] = 16.0

    def read(self) -> Samples:
        """Return all images, 115 kB."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        # grey levels are 0 to 16, and a byte holds them exactly
        return Samples(images.reshape(-1, 1, 8, 8).astype(np.uint8), labels.astype(np.int64))
