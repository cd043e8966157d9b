"""The loops of `ppfl.rows.exact_sum` over rows, at most as many as float64 can count slices of.

Constants come as arguments: compiled code is kept for as long as this file stays as it is, whatever others say.
"""

from __future__ import annotations

import math

import numpy as np

from ppfl.core.compiled import compiled


@compiled
def weigh(rows: np.ndarray, weights: np.ndarray, rest: np.ndarray, largest: np.ndarray) -> None:
    """Write v_k x_k, (K, D), and the largest magnitude of each, (K,), which is NaN where an entry is NaN."""
    # magnitudes of float64, inf and NaN above them, are in the order of their bits as integers, whose maximum, unlike
    # that of numbers, is found several at a time
    bits, tops = rest.view(np.int64), largest.view(np.int64)
    for k in range(len(rows)):
        weight = weights[k]
        for d in range(rows.shape[1]):
            rest[k, d] = rows[k, d] * weight
        top = np.int64(0)
        for d in range(rows.shape[1]):
            top = max(top, bits[k, d] & np.int64(0x7FFF_FFFF_FFFF_FFFF))
        tops[k] = top


@compiled
def bin_of(largest: float, bin_bits: int, lowest: int) -> int:
    """Return the number of the bin of the highest bit of a finite number, or `lowest` if that is above it."""
    # frexp has mantissas in [1/2, 1), so that the highest bit is worth 2**(exponent − 1)
    return max((math.frexp(largest)[1] - 1) // bin_bits, lowest)


@compiled
def add_slices(
    rest: np.ndarray, largest: np.ndarray, top: int, bins: np.ndarray, bin_bits: int, lowest: int
) -> int:  # fmt: skip
    """Add the slices of finite terms (K, D), which are written over, to (bins, D); return how many bins were used.

    A term has no slice above the bin of its own largest entry, whatever the others are. Slices are rounded by adding
    and subtracting 1.5·2**52: what is between, at most 2**40 away from it, has room for whole numbers alone.
    """
    num_bins, length = bins.shape
    integer = 1.5 * 2.0**52
    used = 0
    for k in range(len(rest)):
        if largest[k] == 0.0:
            continue
        for row in range(top - bin_of(largest[k], bin_bits, lowest), num_bins):
            unit = math.ldexp(1.0, (top - row) * bin_bits)
            inverse = 1.0 / unit
            for d in range(length):
                number = (rest[k, d] * inverse + integer) - integer
                bins[row, d] += number
                rest[k, d] -= number * unit
            used = max(used, row + 1)
            if row == num_bins - 2 and not rest[k].any():
                break
    return used


@compiled
def _round(bins: np.ndarray, top: int, bin_bits: int, total: np.ndarray) -> None:
    """As `ppfl.rows.exact_sum.rounded` does bins of float64."""
    unit = 2.0**bin_bits
    for row in range(len(bins) - 1, 0, -1):
        for d in range(len(total)):
            carry = np.floor(bins[row, d] * (1.0 / unit) + 0.5)
            bins[row, d] -= carry * unit
            bins[row - 1, d] += carry
    total[:] = 0.0
    for row in range(len(bins) - 1, -1, -1):
        worth = math.ldexp(1.0, (top - row) * bin_bits)
        for d in range(len(total)):
            total[d] += bins[row, d] * worth


@compiled
def weighted_sums(
    terms: np.ndarray, weights: np.ndarray, totals: np.ndarray, num_bins: int, bin_bits: int, lowest: int
) -> None:  # fmt: skip
    """Write Σ_k v_k x_k of every sum: (R, K, D) and (R, K) -> (R, D)."""
    num_sums, num_terms, length = terms.shape
    rest, bins, largest = np.empty((num_terms, length)), np.empty((num_bins, length)), np.empty(num_terms)
    for r in range(num_sums):
        weigh(terms[r], weights[r], rest, largest)
        top, is_finite = lowest, True
        for k in range(num_terms):
            if not math.isfinite(largest[k]):
                is_finite = False
            elif largest[k] != 0.0:
                top = max(top, bin_of(largest[k], bin_bits, lowest))
        if is_finite:
            bins[:] = 0.0
            add_slices(rest, largest, top, bins, bin_bits, lowest)
            _round(bins, top, bin_bits, totals[r])
        else:
            totals[r, :] = math.nan
