"""The same time for every job."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ppfl.interfaces.compute_times import RandomComputeTimes


class Fixed(RandomComputeTimes):
    """t = mean.

    Source: Mishchenko et al., TMLR 2025, the asynchronous experiment; with one straggler of factor 100, its variant.
    """

    name: Literal["fixed"]

    def draw(self, generator: np.random.Generator, size: int) -> np.ndarray:
        """Return 1."""
        return np.ones(size)
