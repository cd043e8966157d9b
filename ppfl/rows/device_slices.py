"""Slices for exact sums on a device that nobody waits for: as many operations for thousands of terms as for one.

What `ppfl.rows.exact_sum` decides by, the largest entry of a term and the highest bin, are tensors here, and decisions
are products with 0 and 1. The bits are the same.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import torch

from ppfl.core import devices
from ppfl.rows.bins import (
    BIN_BITS,
    LOWEST_TOP,
    NOT_FINITE,
    NUM_BINS,
    bins_of,
    exponents_of,
    powers_of_two,
    rounded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK_BYTES = 256 << 20
"""Of float64 that are held at once while terms are cut."""
_BYTES_AN_ENTRY = 16
"""What is left of it, and its slice."""


def as_matrix(piece: torch.Tensor, number: int) -> torch.Tensor:
    """Return rows (K, …) as (K, D)."""
    assert piece.ndim > 0, "a row for each term"
    assert len(piece) == number, "rows of another length or number"
    return piece if piece.ndim == 2 else piece.reshape(number, math.prod(piece.shape[1:]))


class WeightedRows:
    """Vectors v_k x_k as rows, in pieces (K, …) side by side of any floating types, weights v (K,)."""

    def __init__(self, pieces: Sequence[torch.Tensor], weights: torch.Tensor) -> None:
        number = len(weights)
        self.weights = weights.reshape(number, 1)
        self._pieces = [as_matrix(piece, number) for piece in pieces]
        self.length = sum(piece.shape[1] for piece in self._pieces)
        self._width = max(1, BLOCK_BYTES // (_BYTES_AN_ENTRY * number))
        if self.length <= self._width and len(self._pieces) > 1:
            self._pieces = [torch.cat(self._pieces, dim=1)]

    def largest(self) -> torch.Tensor:
        """±max_d |v_k x_kd|, (K, 1) float64; NaN where an entry is."""
        found = None
        for _, block in self._blocks():
            # a weight is applied to the largest entry alone: rounding keeps the order
            here = torch.maximum(block.amax(dim=1, keepdim=True), block.amin(dim=1, keepdim=True).neg_())
            found = here if found is None else torch.maximum(found, here)
        assert found is not None, "vectors without coordinates have no largest"
        return found * self.weights

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield first column and v_k x_k of some columns (K, W), float64, in memory of their own."""
        for start, block in self._blocks():
            yield start, block * self.weights

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        start = filled = 0
        parts: list[torch.Tensor] = []
        for piece in self._pieces:
            first, end = 0, piece.shape[1]
            while first < end:
                last = min(first + self._width - filled, end)
                parts.append(piece if last - first == end else piece[:, first:last])
                first, filled = last, filled + last - first
                if filled == self._width:
                    yield start, _side_by_side(parts)
                    start, filled, parts = start + filled, 0, []
        if parts:
            yield start, _side_by_side(parts)


class Heights:
    """Highest bin and largest entry of a sum, which the device alone knows."""

    def __init__(self, top: int, is_finite: bool, device: torch.device) -> None:
        self.top = torch.full((), max(top, LOWEST_TOP) if is_finite else LOWEST_TOP, device=device)
        self._exponent = torch.full((), 0 if is_finite else NOT_FINITE, device=device)

    def raise_for(self, largest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the bins in which terms begin, (K, 1) as what is largest in each, and by how much the top rises."""
        exponents = exponents_of(largest)
        # those of zeros are the lowest there are, so that they raise nothing
        own, before = bins_of(exponents), self.top
        self.top = torch.maximum(self.top, own.amax())
        self._exponent = torch.maximum(self._exponent, exponents.amax())
        return own, self.top - before

    def total(self, bins: torch.Tensor) -> torch.Tensor:
        """Return what bins (NUM_BINS, D) are worth, (D,) float64, NaN if a term was not finite; written over."""
        rows = _ladder(bins.device)[0].unsqueeze(1)
        units = powers_of_two((self.top - rows) * BIN_BITS)
        return rounded(bins, units.unbind(0)).masked_fill_(self._exponent == NOT_FINITE, math.nan)

    def read(self, *bins: torch.Tensor) -> tuple[int, int, bool]:
        """Return the highest bin, the lowest one that is not empty, and whether all terms were finite; waits once."""
        used = torch.stack([some.ne(0).any(dim=1) for some in bins]).any(dim=0)
        facts = torch.cat([torch.stack([self.top, self._exponent]), used.to(torch.int64)])
        top, exponent, *rows = devices.to_host(facts).tolist()
        # bins that cancel have kept others from being kept: the highest counts, whatever is in it
        return top, top - max(row for row in range(NUM_BINS) if rows[row] or row == 0), exponent != NOT_FINITE


def lowered(bins: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Return bins (NUM_BINS, D) moved down, those at the bottom forgotten."""
    rows = _ladder(bins.device)[0] - shift
    return bins.index_select(0, rows.clamp_min(0)).mul_((rows >= 0).unsqueeze(1))


def sums_of_slices(
    rest: torch.Tensor, own: torch.Tensor, top: torch.Tensor, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return the sums of the slices of terms (…, K, W) float64, which are written over: (NUM_BINS, …, W).

    own: bin in which each term begins, (…, K, 1); top: highest bin of each sum, which `rest` can be divided by. dtype:
    of the integers, None for float64 or, of more than 4096 terms, which float64 does not count by ones, int64.
    """
    rows, powers = (steps.reshape(-1, *[1] * own.ndim) for steps in _ladder(rest.device))
    # 0 where a term has no slice, being smaller: rounded to the nearest it could be 1
    factors = (own >= top - rows) * powers
    # all in units of the highest bin, so that what remains needs no factor that only the device knows; what this
    # makes too small for a float64 is far below the lowest slice
    rest.mul_(powers_of_two(top * -BIN_BITS))
    sums = []
    for row, factor in enumerate(factors.unbind(0)):
        integers = (rest * factor).round_()
        sums.append((integers if dtype is None else integers.to(dtype)).sum(dim=-2))
        if row < NUM_BINS - 1:
            rest.sub_(integers, alpha=2.0 ** (-row * BIN_BITS))  # exact, and of less than half a unit
    return torch.stack(sums)


@cache
def _ladder(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of the bins, counted from the highest, and how many of their units are one of that."""
    rows = range(NUM_BINS)
    powers = torch.tensor([2.0 ** (row * BIN_BITS) for row in rows], dtype=torch.float64)
    return devices.to_device(torch.tensor(rows), device), devices.to_device(powers, device)


def _side_by_side(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
