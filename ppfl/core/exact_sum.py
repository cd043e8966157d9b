"""Sums of vectors whose bits depend neither on the order of the terms nor on how they are spread over ranks.

Every term is cut at fixed binary positions into integer slices ("bins" of 40 bits, at exponents that are multiples
of 40), and bins are summed exactly. Only the highest bins are kept, counted from the largest entry seen anywhere. A
slice is what remains of the entry in units of the bin, rounded to the nearest (even) integer, beginning with the bin of
the largest entry of its own term: so a slice depends on its term alone, and not on which bins are kept at that moment.
Terms can be added as they are produced, without knowing the largest entry beforehand, and N×D numbers are never held.
Source of the idea: Demmel & Nguyen, "Parallel Reproducible Summation", IEEE Transactions on Computers 2015 (there with
floating-point bins).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import torch

from ppfl.core.params import largest_entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.core.communicator import Communicator

BIN_BITS = 40
NUM_BINS = 3
MAX_TERMS = 1 << 22
LOWEST_BIN = -24  # 2**(-24·40) is still a normal float64; anything smaller counts as zero
_NOTHING = -(1 << 30)
_NON_FINITE = 1 << 30
BUCKET_BYTES = 8 << 20
"""Of one message of a reduction."""
_ON_THEIR_WAY = 2
_MAX_RECENT = 1 << 12


class ExactSum:
    """Σ_k x_k of vectors of length D, order-free; kept on one device, 24·D bytes.

    Three bins keep at least 80 bits below the largest entry of any term: a coordinate 2**-27 times the largest keeps
    the 53 bits of a float64, one 2**-56 times the largest the 24 bits of a float32. A term with NaN or inf makes the
    whole sum NaN. At most 2**22 terms.
    """

    def __init__(self, length: int, device: torch.device | str = "cpu") -> None:
        self._recent = torch.zeros(NUM_BINS, length, dtype=torch.float64, device=device)
        """Sums of the slices of the last terms, integers of less than 53 bits."""
        self._num_recent = 0
        self._earlier: torch.Tensor | None = None
        """Those of the terms before, int64."""
        self._top = _NOTHING
        self._lowest = _NON_FINITE
        """The lowest bin in which a slice was put."""
        self._num_terms = 0

    def add(self, term: torch.Tensor) -> None:
        """Add one vector of shape (D,), converted to float64 without loss."""
        self._num_terms += 1
        largest = largest_entry(term)
        if not math.isfinite(largest):
            self._top = _NON_FINITE
        if largest == 0.0 or self._top == _NON_FINITE:
            return
        needed = max((math.frexp(largest)[1] - 1) // BIN_BITS, LOWEST_BIN + NUM_BINS - 1)
        self._raise_top(max(needed, self._top))
        self._make_room()
        rest = term.to(torch.float64, copy=True)
        integers = torch.empty_like(rest)
        for row in range(self._top - needed, NUM_BINS):
            unit = math.ldexp(1.0, (self._top - row) * BIN_BITS)
            torch.mul(rest, 1.0 / unit, out=integers).round_()
            self._recent[row] += integers
            rest.sub_(integers, alpha=unit)  # exact, and of less than half a unit
            self._lowest = min(self._lowest, self._top - row)
            if row == NUM_BINS - 2 and largest_entry(rest) == 0.0:
                break  # as in most vectors of float32, which looking tells faster than slicing

    def reduce(self, communicator: Communicator, bucket_bytes: int = BUCKET_BYTES) -> torch.Tensor:
        """Return the sum over all terms of all ranks, shape (D,), float64 on the device; the same bits on every rank.

        It travels in messages of at most `bucket_bytes`, of which one is rounded while the next ones are on their way;
        the lowest bins do not when they are empty on all ranks, as the third one most often is for float32.
        Raises OverflowError beyond 2**22 terms in all.
        """
        top, above = communicator.allreduce(torch.tensor([self._top, -self._lowest]), "max").tolist()
        num_terms = int(communicator.allreduce(torch.tensor([self._num_terms]), "sum"))
        if num_terms > MAX_TERMS:
            raise OverflowError(f"an exact sum holds at most {MAX_TERMS} terms, got {num_terms}")
        device = self._recent.device
        length = self._recent.shape[1]
        if top == _NON_FINITE:
            return torch.full((length,), math.nan, dtype=torch.float64, device=device)
        if top == _NOTHING:
            return torch.zeros(length, dtype=torch.float64, device=device)
        self._raise_top(top)
        num_bins = min(top + above + 1, NUM_BINS)
        units = [math.ldexp(1.0, (self._top - row) * BIN_BITS) for row in range(num_bins)]
        unit_of_bin = torch.tensor(units, dtype=torch.float64, device=device)
        columns = max(1, bucket_bytes // (num_bins * self._recent.element_size()))
        on_their_way: deque[Callable[[], torch.Tensor]] = deque()
        done = []
        for start in range(0, length, columns):
            on_their_way.append(communicator.start_sum(self._slices(num_bins, start, start + columns)))
            if len(on_their_way) > _ON_THEIR_WAY:
                done.append(rounded(on_their_way.popleft()().to(device), unit_of_bin))
        done += [rounded(wait().to(device), unit_of_bin) for wait in on_their_way]
        return torch.cat(done)

    def _slices(self, num_bins: int, start: int, stop: int) -> torch.Tensor:
        """Return the sums of the slices of some columns in the highest bins, int64 on the CPU."""
        total = self._recent[:num_bins, start:stop].to(torch.int64)
        if self._earlier is not None:
            total += self._earlier[:num_bins, start:stop]
        return total.cpu().contiguous()

    def _make_room(self) -> None:
        """Count one term more, and move the recent ones to int64 before they could need more than 53 bits."""
        if self._num_recent == _MAX_RECENT:
            moved = self._recent.to(torch.int64)
            self._earlier = moved if self._earlier is None else self._earlier.add_(moved)
            self._recent.zero_()
            self._num_recent = 0
        self._num_recent += 1

    def _raise_top(self, top: int) -> None:
        shift = top - self._top
        if shift <= 0:
            return
        if self._top != _NOTHING:
            for bins in (self._recent, self._earlier):
                if bins is not None:
                    kept = bins[: max(NUM_BINS - shift, 0)].clone()
                    bins.zero_()
                    bins[NUM_BINS - len(kept) :] = kept
        self._top = top


def exact_sums(terms: torch.Tensor) -> torch.Tensor:
    """Return what `ExactSum` makes of the terms of each of R sums, (R, M, D) -> (R, D): the same bits, all at once."""
    num_sums, num_terms, length = terms.shape
    if num_terms > MAX_TERMS:
        raise OverflowError(f"an exact sum holds at most {MAX_TERMS} terms, got {num_terms}")
    rest = terms.to(torch.float64)
    of_terms = rest.abs().amax(dim=2) if length else rest.new_zeros(num_sums, num_terms)
    largest = of_terms.amax(dim=1).tolist() if num_terms else [0.0] * num_sums
    finite = [math.isfinite(value) for value in largest]
    lowest = LOWEST_BIN + NUM_BINS - 1
    tops = [
        max((math.frexp(value)[1] - 1) // BIN_BITS, lowest) if ok else lowest
        for value, ok in zip(largest, finite, strict=True)
    ]
    exponents = [[(top - row) * BIN_BITS for top in tops] for row in range(NUM_BINS)]
    units = rest.new_tensor([[math.ldexp(1.0, exponent) for exponent in row] for row in exponents])
    scales = rest.new_tensor([[math.ldexp(1.0, -exponent) for exponent in row] for row in exponents])
    bins = torch.zeros(NUM_BINS, num_sums, length, dtype=torch.int64, device=terms.device)
    # a term has no slice above the bin of its own largest entry, whatever the others are
    own = torch.div(torch.frexp(of_terms).exponent.to(torch.int64) - 1, BIN_BITS, rounding_mode="floor")
    own = own.clamp_min(lowest)
    for row in range(NUM_BINS):
        reaches = own >= torch.tensor(tops, device=own.device)[:, None] - row
        integers = (rest * scales[row].reshape(-1, 1, 1)).round_() * reaches.unsqueeze(-1)
        bins[row] = integers.to(torch.int64).sum(dim=1)
        rest = rest - integers.mul_(units[row].reshape(-1, 1, 1))
    total = rounded(bins, units.unsqueeze(-1))
    return torch.where(torch.tensor(finite, device=terms.device).reshape(-1, 1), total, math.nan)


def rounded(bins: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Carry from the lowest bin up, so that equal sums have equal bins, then round: (bins, …) -> (…).

    What stays in a bin is at most half of the next one's unit, of either sign: a small negative sum must not become the
    difference of two large numbers.
    """
    for row in range(len(bins) - 1, 0, -1):
        carry = (bins[row] + (1 << (BIN_BITS - 1))) >> BIN_BITS
        bins[row] -= carry << BIN_BITS
        bins[row - 1] += carry
    total = torch.zeros(bins.shape[1:], dtype=torch.float64, device=bins.device)
    for row in range(len(bins) - 1, -1, -1):
        total += bins[row].to(torch.float64) * units[row]
    return total
