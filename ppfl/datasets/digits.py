"""Handwritten digits that ship with scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.interfaces.centralized import CentralizedDataset
from ppfl.interfaces.dataset import Samples

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class Digits(CentralizedDataset):
    """1797 grey images (1, 8, 8) of 10 digits, scaled to [0, 1], split over clients by a partition.

    Source: Alpaydin & Kaynak, UCI Optical Recognition of Handwritten Digits (its test part): the file that
    `sklearn.datasets.load_digits` reads.
    """

    name: Literal["digits"]
    example: ClassVar[Example] = {"partition": {"name": "iid", "clients": 6}}
    num_samples: ClassVar[int] = 1797
    divisor: ClassVar[float] = 16.0

    def read(self) -> Samples:
        """Return all images, 115 kB."""
        # found and not imported: all that scikit-learn loads with itself takes a second of each start
        package = find_spec("sklearn")
        assert package is not None
        assert package.origin is not None
        # grey levels are 0 to 16, and a byte holds them exactly
        rows = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
        return Samples(rows[:, :-1].reshape(-1, 1, 8, 8).copy(), rows[:, -1].astype(np.int64))
