"""Sums of vectors whose bits depend neither on the order of the terms nor on how they are spread over ranks.

Every term is cut at fixed binary positions into integer slices ("bins" of 40 bits, at exponents that are multiples
of 40), and bins are summed exactly. Only the highest bins are kept, counted from the largest entry seen anywhere. A
slice is what remains of the entry in units of the bin, rounded to the nearest (even) integer, beginning with the bin of
the largest entry of its own term: so a slice depends on its term alone, and not on which bins are kept at that moment.
Terms can be added as they are produced, without knowing the largest entry beforehand, and N×D numbers are never held.
Source of the idea: Demmel & Nguyen, "Parallel Reproducible Summation", IEEE Transactions on Computers 2015 (there with
floating-point bins).

Rows and many small sums at once are added up by loops that Numba compiles. Without it, and on other devices, which are
not waited for, the same bits come of the tensors of `ppfl.rows.device_slices`.
"""

from __future__ import annotations

import math
from collections import deque
from functools import cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ppfl.core import devices
from ppfl.core.params import largest_entry
from ppfl.rows.bins import (
    BIN_BITS,
    LOWEST_TOP,
    MAX_TERMS,
    NOT_FINITE,
    NUM_BINS,
    bins_of,
    exponents_of,
    powers_of_two,
    rounded,
)
from ppfl.rows.device_slices import Heights, WeightedRows, as_matrix, lowered, sums_of_slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ppfl.core.communicator import Communicator

_NOTHING = -(1 << 30)
_NON_FINITE = 1 << 30
BUCKET_BYTES = 8 << 20
"""Of one message of a reduction."""
_ON_THEIR_WAY = 2
# 2**12 slices of at most 2**40 are at most 2**52: float64 still counts by ones there
_MAX_RECENT = 1 << 12
_CHUNK = 1 << 17
"""Coordinates that are sliced at once on a CPU: 2 MB that stay in the cache, and are not handed out page by page."""


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
        of_device = self._recent.device
        self._heights = None if devices.is_host(of_device) else Heights(_NOTHING, True, of_device)
        """In the place of the highest and the lowest bin, on a device that would have to be waited for."""

    def add(self, *pieces: torch.Tensor, weight: float = 1.0) -> None:
        """Add a weight times one vector, (D,) in any number of pieces of any shape, in float64."""
        if self._heights is not None:
            weights = self._recent.new_full((1,), weight)
            self._add_slices(self._heights, WeightedRows([piece.reshape(1, -1) for piece in pieces], weights))
            return
        self._num_terms += 1
        extremes = [largest_entry(piece) for piece in pieces]
        largest = max(extremes, default=0.0) * weight if all(map(math.isfinite, extremes)) else math.inf
        if not math.isfinite(largest):
            self._top = _NON_FINITE
        if largest == 0.0 or self._top == _NON_FINITE:
            return
        # frexp has mantissas in [1/2, 1), so that the highest bit is worth 2**(exponent − 1)
        needed = max((math.frexp(largest)[1] - 1) // BIN_BITS, LOWEST_TOP)
        self._raise_top(max(needed, self._top))
        self._make_room(1)
        for start, rest, integers in self._chunks(pieces):
            if weight != 1.0:
                rest.mul_(weight)
            self._slice(rest, integers, start, self._top - needed)

    def add_rows(self, terms: torch.Tensor | Sequence[torch.Tensor], weights: torch.Tensor) -> None:
        """Add Σ_k v_k x_k, with the bits of adding one after another; v is (K,) float64, on the CPU or here.

        terms: the vectors as rows (K, D), or pieces of them side by side, (K, …) each, of any floating types.
        """
        pieces = [terms] if isinstance(terms, torch.Tensor) else list(terms)
        kernels = _compiled() if self._heights is None and all(piece.is_cpu for piece in pieces) else None
        if kernels is None and self._heights is None:
            self._heights = Heights(self._top, self._top != _NON_FINITE, self._recent.device)
        if self._heights is not None:
            weights = devices.to_device(weights, self._recent.device)
        for start in range(0, len(weights), _MAX_RECENT):
            few = slice(start, start + _MAX_RECENT)
            is_all = len(weights) <= _MAX_RECENT
            here, of_these = (pieces, weights) if is_all else ([piece[few] for piece in pieces], weights[few])
            if self._heights is not None:
                self._add_slices(self._heights, WeightedRows(here, of_these))
            elif kernels is not None:
                self._add_few(kernels, _rows(here), _array(of_these))

    def _add_slices(self, heights: Heights, rows: WeightedRows) -> None:
        """Add terms, at most as many as float64 counts by ones, without looking at any number."""
        number, length = len(rows.weights), self._recent.shape[1]
        assert rows.length == length, "rows of another length or number"
        self._num_terms += number
        if not length:
            return
        with torch.no_grad():
            self._make_room(number)
            own, shift = heights.raise_for(rows.largest())
            self._recent = lowered(self._recent, shift)
            if self._earlier is not None:
                self._earlier = lowered(self._earlier, shift)
            for start, block in rows.blocks():
                here = self._recent[:, start : start + block.shape[1]] if block.shape[1] < length else self._recent
                here.add_(sums_of_slices(block, own, heights.top))

    def _add_few(self, kernels: _Kernels, terms: np.ndarray, weights: np.ndarray) -> None:
        assert terms.shape == (len(weights), self._recent.shape[1]), "rows of another length or number"
        self._num_terms += len(terms)
        rest, of_terms = np.empty_like(terms), np.empty_like(weights)
        kernels.weigh(terms, weights, rest, of_terms)
        largest = float(of_terms.max())
        if not math.isfinite(largest):
            self._top = _NON_FINITE
        if largest == 0.0 or self._top == _NON_FINITE:
            return
        self._raise_top(max((math.frexp(largest)[1] - 1) // BIN_BITS, LOWEST_TOP, self._top))
        self._make_room(len(terms))
        bins = self._recent.numpy()
        num_used = kernels.add_slices(rest, of_terms, self._top, bins, BIN_BITS, LOWEST_TOP)
        self._lowest = min(self._lowest, self._top - num_used + 1)

    def _slice(self, rest: torch.Tensor, integers: torch.Tensor, start: int, first: int) -> None:
        """Add the slices of some coordinates, from row `first` on; what is given is written over."""
        for row in range(first, NUM_BINS):
            unit = math.ldexp(1.0, (self._top - row) * BIN_BITS)
            # a unit is a power of two: its inverse and the product are exact, and only `round_` rounds
            torch.mul(rest, 1.0 / unit, out=integers).round_()
            self._recent[row, start : start + len(rest)].add_(integers)
            rest.sub_(integers, alpha=unit)  # exact, and of less than half a unit
            self._lowest = min(self._lowest, self._top - row)
            if row == NUM_BINS - 2 and largest_entry(rest) == 0.0:
                break  # as in most vectors of float32, which looking tells faster than slicing

    def _chunks(self, pieces: tuple[torch.Tensor, ...]) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yield start, coordinates in float64, and as much space, again and again in the same memory."""
        length = self._recent.shape[1]
        assert sum(piece.numel() for piece in pieces) == length, "a vector of another length"
        width = min(_CHUNK, length)
        chunk, space = self._recent.new_empty(2, width)
        start = filled = 0
        for piece in pieces:
            rest = piece.reshape(-1)
            while len(rest):
                part = rest[: width - filled]
                chunk[filled : filled + len(part)].copy_(part)
                filled, rest = filled + len(part), rest[len(part) :]
                if filled == width:
                    yield start, chunk, space
                    start, filled = start + width, 0
        if filled:
            yield start, chunk[:filled], space[:filled]

    def reduce(self, communicator: Communicator, bucket_bytes: int = BUCKET_BYTES) -> torch.Tensor:
        """Return the sum over all terms of all ranks, shape (D,), float64 on the device; the same bits on every rank.

        It travels in messages of at most `bucket_bytes`, of which one is rounded while the next ones are on their way;
        the lowest bins do not when they are empty on all ranks, as the third one most often is for float32.
        Raises OverflowError beyond 2**22 terms in all.
        """
        if self._heights is not None:
            if communicator.size == 1:
                return self._total_of_one_rank(self._heights)
            bins = (self._recent,) if self._earlier is None else (self._recent, self._earlier)
            self._top, self._lowest, is_finite = self._heights.read(*bins)
            self._top, self._heights = self._top if is_finite else _NON_FINITE, None
        # one message for a maximum and a minimum; what follows depends on sums over all ranks alone, so that all of
        # them leave by the same door and nobody waits in a collective for one that has returned
        top, above = communicator.allreduce(torch.tensor([self._top, -self._lowest]), "max").tolist()
        num_terms = int(communicator.allreduce(torch.tensor([self._num_terms]), "sum"))
        _refuse_beyond(num_terms)
        device = self._recent.device
        length = self._recent.shape[1]
        if top == _NON_FINITE:
            return torch.full((length,), math.nan, dtype=torch.float64, device=device)
        if top == _NOTHING:
            return torch.zeros(length, dtype=torch.float64, device=device)
        self._raise_top(top)
        num_bins = min(top + above + 1, NUM_BINS)
        units = [math.ldexp(1.0, (self._top - row) * BIN_BITS) for row in range(num_bins)]
        few_terms = num_terms <= _MAX_RECENT  # then nobody has sums that float64 could not hold
        columns = max(1, bucket_bytes // (num_bins * self._recent.element_size()))
        on_host = (
            devices.start_to_host(self._sums(num_bins, start, start + columns, few_terms))
            for start in range(0, length, columns)
        )
        on_their_way: deque[Callable[[], torch.Tensor]] = deque()
        done = []
        # each one is waited for when the next one has been sent off from the device
        for sums, _ in pairwise(chain(on_host, [None])):
            assert sums is not None
            on_their_way.append(communicator.start_sum(sums()))
            if len(on_their_way) > _ON_THEIR_WAY:
                done.append(rounded(devices.to_device(on_their_way.popleft()(), device), units))
        done += [rounded(devices.to_device(wait(), device), units) for wait in on_their_way]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _total_of_one_rank(self, heights: Heights) -> torch.Tensor:
        """Return the sum where there is nobody else, so that the host need not know which bins are used."""
        _refuse_beyond(self._num_terms)
        few_terms = self._num_terms <= _MAX_RECENT
        return heights.total(self._recent.clone() if few_terms else self._sums(NUM_BINS, 0, None, few_terms))

    def _sums(self, num_bins: int, start: int, stop: int | None, few_terms: bool) -> torch.Tensor:
        """Return the sums of the slices of some columns in the highest bins, int64, or of few terms float64."""
        recent = self._recent[:num_bins, start:stop]
        if few_terms:
            return recent
        whole = recent.to(torch.int64)
        return whole if self._earlier is None else whole.add_(self._earlier[:num_bins, start:stop])

    def _make_room(self, num_terms: int) -> None:
        """Count terms more, and move the recent ones to int64 before they could need more than 53 bits."""
        if self._num_recent + num_terms > _MAX_RECENT:
            moved = self._recent.to(torch.int64)
            self._earlier = moved if self._earlier is None else self._earlier.add_(moved)
            self._recent.zero_()
            self._num_recent = 0
        self._num_recent += num_terms

    def _raise_top(self, top: int) -> None:
        shift = top - self._top
        if shift <= 0:
            return
        if self._top != _NOTHING:
            for bins in (self._recent, self._earlier):
                if bins is not None:
                    # copied first: its new place overlaps with the old one
                    kept = bins[: max(NUM_BINS - shift, 0)].clone()
                    bins.zero_()
                    bins[NUM_BINS - len(kept) :] = kept
        self._top = top


def exact_sums(terms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return what `ExactSum` makes of the terms of each of R sums, (R, T, D) -> (R, D): the same bits, all at once.

    weights: of the terms, (R, T) float64; default 1.
    """
    num_sums, num_terms, length = terms.shape
    _refuse_beyond(num_terms)
    if weights is None:
        weights = torch.ones(num_sums, num_terms, dtype=torch.float64, device=terms.device)
    assert weights.shape == (num_sums, num_terms), "a weight for every term"
    kernels = _compiled() if devices.is_host(terms.device) and num_terms <= _MAX_RECENT else None
    if kernels is None:
        return _sums_by_torch(terms.to(torch.float64) * weights.unsqueeze(-1))
    totals = np.empty((num_sums, length))
    kernels.sums(_array(terms), _array(weights), totals, NUM_BINS, BIN_BITS, LOWEST_TOP)
    return torch.from_numpy(totals)


def _sums_by_torch(rest: torch.Tensor) -> torch.Tensor:
    """Return the sums where nothing is compiled, and of more terms than float64 could count; written over."""
    num_terms = rest.shape[1]
    if not rest.numel():
        return rest.new_zeros(rest.shape[0], rest.shape[2])
    exponents = exponents_of(torch.maximum(rest.amax(dim=2, keepdim=True), rest.amin(dim=2, keepdim=True).neg_()))
    own = bins_of(exponents)
    top = own.amax(dim=1, keepdim=True)
    bins = sums_of_slices(rest, own, top, torch.float64 if num_terms <= _MAX_RECENT else torch.int64)
    units = [powers_of_two((top[:, 0] - row) * BIN_BITS) for row in range(NUM_BINS)]
    return rounded(bins, units).masked_fill_((exponents == NOT_FINITE).any(dim=1), math.nan)


def _refuse_beyond(num_terms: int) -> None:
    if num_terms > MAX_TERMS:
        raise OverflowError(f"an exact sum holds at most {MAX_TERMS} terms, got {num_terms}")


def _rows(pieces: Sequence[torch.Tensor]) -> np.ndarray:
    """Return a vector a client, (K, D) float64."""
    matrices = [as_matrix(piece, len(piece)) for piece in pieces]
    return _array(matrices[0] if len(matrices) == 1 else torch.cat(matrices, dim=1))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).contiguous().numpy()


class _Kernels(NamedTuple):
    weigh: Callable[..., None]
    add_slices: Callable[..., int]
    sums: Callable[..., None]


@cache
def _compiled() -> _Kernels | None:
    try:
        # loaded by those who add up rows: it takes a third of a second
        from ppfl.rows._exact_sum_kernel import add_slices, weigh, weighted_sums
    except ImportError:
        return None
    return _Kernels(weigh, add_slices, weighted_sums)
