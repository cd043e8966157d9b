"""Which numbers and labels of samples a run can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_BYTE_LEVELS = 255.0


def divisor_of(stored: np.dtype) -> float:
    """Return what samples of this type are divided by to lie in [0, 1]; 1 when they are used as they are."""
    return _BYTE_LEVELS if stored == np.uint8 else 1.0


def largest_number(stored: np.dtype, precision: torch.dtype) -> float:
    """Return the largest that one of this type may be: a finite float64 may be inf in the float32 of a run."""
    import torch

    if stored.kind != "f":
        return _BYTE_LEVELS
    return min(torch.finfo(precision).max, float(np.finfo(stored).max))


def unusable_rows(x: np.ndarray, largest: float) -> np.ndarray:
    """Return which of samples or labels (S, …) have NaN, inf or numbers beyond the largest, ascending int64."""
    # extremes are found without memory for |x|, and are NaN where there is one
    if x.dtype.kind != "f" or not x.size or (x.min() >= -largest and x.max() <= largest):
        return np.empty(0, np.int64)
    return np.flatnonzero(~(np.abs(x) <= largest).reshape(len(x), -1).all(axis=1))


def impossible_rows(y: np.ndarray, end: int) -> np.ndarray:
    """Return which of labels or tokens (S, …), integers, are not among 0 to end − 1, ascending int64."""
    if not y.size or 0 <= int(y.min()) <= int(y.max()) < end:
        return np.empty(0, np.int64)
    return np.flatnonzero(((y < 0) | (y >= end)).reshape(len(y), -1).any(axis=1))
