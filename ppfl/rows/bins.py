"""The fixed binary positions at which exact sums cut their terms, and how sums of slices become numbers again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

BIN_BITS = 40
NUM_BINS = 3
# 2**22 slices of at most 2**40 fit into the 63 bits of an int64
MAX_TERMS = 1 << 22
LOWEST_BIN = -24  # 2**(-24·40) is still a normal float64; anything smaller counts as zero
LOWEST_TOP = LOWEST_BIN + NUM_BINS - 1
_MANTISSA_BITS = 52
_BIAS = 1023
NOT_FINITE = 2047
"""Exponent field of a float64 that is NaN or inf."""


def rounded(bins: torch.Tensor, units: Sequence[float | torch.Tensor]) -> torch.Tensor:
    """Carry from the lowest bin up, so that equal sums have equal bins, then round: (bins, …) -> (…) float64.

    Bins are integers as int64 or, below 2**52, as float64, which takes half the time; they are written over. What stays
    in a bin is at most half of the next one's unit, of either sign: a small negative sum must not become the difference
    of two large numbers.
    """
    rows = bins.unbind(0)
    for row in range(len(rows) - 1, 0, -1):
        if bins.is_floating_point():
            # ⌊x + ½⌋ as the shift of integers below: `round` goes to even, and the two kinds of bins would differ
            carry = (rows[row] * 2.0**-BIN_BITS).add_(0.5).floor_()
            rows[row].sub_(carry, alpha=2.0**BIN_BITS)
        else:
            carry = (rows[row] + (1 << (BIN_BITS - 1))) >> BIN_BITS
            rows[row].sub_(carry << BIN_BITS)
        rows[row - 1].add_(carry)
    total = rows[-1].to(torch.float64) * units[-1]
    for row in range(len(rows) - 2, -1, -1):
        total += rows[row].to(torch.float64) * units[row]
    return total


def exponents_of(largest: torch.Tensor) -> torch.Tensor:
    """Return the exponent fields of float64, int64: 1023 + ⌊log₂ |x|⌋ of normal numbers, NOT_FINITE of NaN and inf."""
    return (largest.view(torch.int64) >> _MANTISSA_BITS) & NOT_FINITE


def bins_of(exponents: torch.Tensor) -> torch.Tensor:
    """Return the numbers of the bins of the highest bits, LOWEST_TOP where that is above them, of exponent fields."""
    return torch.div(exponents - _BIAS, BIN_BITS, rounding_mode="floor").clamp_min_(LOWEST_TOP)


def powers_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """Return 2**e exactly, float64, of int64 from −1022 to 1023: no function that computes powers promises that."""
    return ((exponents + _BIAS) << _MANTISSA_BITS).view(torch.float64)
