"""Measurements of cell nuclei that ship with scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.interfaces.centralized import CentralizedDataset
from ppfl.interfaces.dataset import Samples

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.interfaces.partition import Pool


class BreastCancer(CentralizedDataset):
    """569 samples of 30 numbers, malignant (0) or benign (1), split over clients by a partition.

    Source: Wolberg, Street, Mangasarian, UCI Breast Cancer Wisconsin (Diagnostic), through
    `sklearn.datasets.load_breast_cancer`.
    """

    name: Literal["breast_cancer"]
    example: ClassVar[Example] = {"partition": {"name": "iid", "clients": 6}}
    num_samples: ClassVar[int] = 569
    standardize: bool = True
    """Whether the mean of each feature is subtracted, and it is divided by the standard deviation, both of the samples
    that clients train on, together."""

    @property
    def is_fitted(self) -> bool:
        """`standardize`."""
        return self.standardize

    def read(self) -> Samples:
        """Return all samples, 137 kB."""
        from sklearn.datasets import load_breast_cancer

        x, y = load_breast_cancer(return_X_y=True)
        return Samples(x.astype(np.float64), y.astype(np.int64))

    def fitted(self, pool: Pool, tests: Pool | None, in_training: np.ndarray) -> tuple[Pool, Pool | None]:
        """Return samples whose features have mean 0 and standard deviation 1 over those trained on."""
        x = pool.samples.x
        trained = x[in_training]
        # of one sample alone, or of equal ones
        deviation = np.where(np.ptp(trained, axis=0) > 0, trained.std(axis=0), 1.0)
        scaled = (x - trained.mean(axis=0)) / deviation
        return replace(pool, samples=Samples(scaled, pool.samples.y), where=f"{pool.where}, standardized"), tests
