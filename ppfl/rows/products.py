"""What is made of N rows in one pass over their columns: copies, mixtures, inner products, distances, sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core import devices
from ppfl.rows.entrywise_sum import EntrywiseSum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ppfl.core.communicator import Communicator

_BAND = 24
"""Products are taken by bands of so many columns: what kernels for AVX2 compute at once, in float64 12, times two."""
_PADDING = 8
"""Unused numbers after each row: rows at a distance of 2**16 bytes would compete for the same lines of the cache."""
_BATCH = 1 << 18
"""Entries of products that are kept until they are added, all at once: for 50 rows 100 blocks, 2 MB."""
_PIECE = 64
"""Columns whose squares are added up in float32."""
_LEAST_SQUARE = 1e-20
"""Squared norm above which entries whose square is lost in float32, below 1e-38, do not count."""
# a term is rounded eight times in float32, 4.8e-7, and what comes of all once more: within the 6e-7 that is promised
_EIGHT = 8
_LEAST_WEIGHT = 1e-30
_WIDE = 1 << 18
"""Columns of a row that are added at once: a megabyte stays in the cache, and calls are few."""


def copied(blocks: Iterable[torch.Tensor], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Yield copies of the (n, W) blocks, each in the place of the one before it: use it before asking for the next.

    Memory that is used again is not handed to us page by page, which took half the time of a mixture. Strides depend
    on the shape of a block alone, since kernels round differently for other ones.
    """
    buffer = None
    for block in blocks:
        if buffer is None or buffer.shape != block.shape:
            buffer = _buffer(block, len(block), dtype)
        yield buffer.copy_(block)


def mixed(mixing: torch.Tensor, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield mixing @ block, in float64, each in the place of the one before it; (N', n) times (n, W)."""
    buffer = None
    for wide in copied(blocks, torch.float64):
        if buffer is None or buffer.shape[1] != wide.shape[1]:
            buffer = _buffer(wide, len(mixing), torch.float64)
        yield torch.mm(mixing, wide, out=buffer)


def products_around(
    communicator: Communicator, blocks: Iterable[torch.Tensor], like: torch.Tensor, centre: int | None
) -> torch.Tensor:
    """Return K_ij = ⟨z_i, z_j⟩ with z_c = x_c and z_i = x_i − x_c else, (n, n) float64 on the CPU. Collective.

    Without c, z_i = x_i. `like`, (n, n), has the device, also on a rank without blocks. NaN and inf in a row are found
    in K_ii, those of row c in all.
    """
    number = len(like)
    upper_rows, upper_columns = torch.triu_indices(number, number)
    places = upper_rows * number + upper_columns
    upper = devices.to_device(places, like.device)

    def of_blocks() -> Iterator[torch.Tensor]:
        found = torch.zeros_like(like, dtype=torch.float64)
        bands: list[tuple[torch.Tensor, ...]] = []
        last = None
        for wide in copied(blocks, torch.float64):
            if wide is not last:  # all blocks of one width come in the same memory
                bands, last = _bands(wide, found), wide
            if centre is not None:
                origin = wide[centre].clone()
                wide.sub_(origin)
                # row c stays: the square of its norm is where its own NaN and inf show
                wide[centre] = origin
            for left, right, place in bands:
                torch.mm(left, right, out=place)
            yield found.take(upper)

    products = torch.zeros(number, number, dtype=torch.float64)
    products.put_(places, _summed(communicator, of_blocks(), like.new_empty(len(places))))
    return products + products.triu(1).T


def squared_distances_to(
    communicator: Communicator, blocks: Iterable[torch.Tensor], like: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """‖x_i − Σ_j a_j x_j‖², (n,) float64 on the CPU; a = 0 gives the squares of norms. Collective.

    `like`, (n,), has the device, also on a rank without blocks. NaN and inf in a row are found in its own norm.
    """
    # asked before they go to the device, where every look at a value waits for all that is under way
    is_somewhere = bool(weights.any())
    weights = devices.to_device(weights.to(torch.float64), like.device)

    def of_blocks() -> Iterator[torch.Tensor]:
        for wide in copied(blocks, torch.float64):
            if is_somewhere:
                wide.sub_(torch.mv(wide.T, weights))
            yield wide.square_().sum(dim=1)

    return _summed(communicator, of_blocks(), like)


def squared_norms_by_pieces(
    communicator: Communicator, chunks: Iterable[torch.Tensor], block_columns: int, like: torch.Tensor
) -> torch.Tensor | None:
    """‖x_i‖² of float32 rows, (n,) float64 on the CPU, to 1.6e-6, in less than half the time. Collective.

    Chunks are many blocks wide, since long pieces of rows are read faster; blocks have multiples of 64 columns. Squares
    are added up in float32 over 64 columns, four or more side by side as torch does, so that a term is rounded at most
    21 times, in float64 over a block, and exactly from there on. None where a sum could overflow, or lose what is too
    small.
    """

    def of_blocks() -> Iterator[torch.Tensor]:
        for chunk in chunks:
            num_blocks = chunk.shape[1] // block_columns
            whole = num_blocks * block_columns
            if num_blocks:
                pieces = chunk[:, :whole].view(len(chunk), num_blocks, -1, _PIECE)
                yield from torch.linalg.vector_norm(pieces, dim=3).to(torch.float64).square_().sum(dim=2).T
            for rest in torch.split(chunk[:, whole:], block_columns, dim=1):
                yield rest.to(torch.float64).square_().sum(dim=1)

    squares = _summed(communicator, of_blocks(), like)
    return squares if bool(((squares >= _LEAST_SQUARE) & squares.isfinite()).all()) else None


def sum_by_eights(columns: torch.Tensor, rows: list[int], weights: list[float]) -> torch.Tensor | None:
    """Σ_k a_k x_k over some rows of float32 columns (n, D_r), as (D_r,) float32, to 6e-7 · Σ_k |a_k x_k| + 1e-43.

    Eight rows at a time are added up in float32, in one pass over memory, and what comes of it in float64. Every
    coordinate is rounded by itself, so that neither alignment nor strides matter. None where weights are so small or
    large that products in float32 could lose digits.
    """
    if not all(_LEAST_WEIGHT <= abs(weight) <= 1.0 / _LEAST_WEIGHT for weight in weights):
        return None
    total = columns.new_empty(columns.shape[1])
    of_eight = columns.new_empty(min(_WIDE, columns.shape[1]))
    wide, widened = (torch.empty_like(of_eight, dtype=torch.float64) for _ in range(2))
    for start in range(0, columns.shape[1], _WIDE):
        piece = columns[:, start : start + _WIDE]
        width = piece.shape[1]
        for first in range(0, len(rows), _EIGHT):
            torch.mul(piece[rows[first]], weights[first], out=of_eight[:width])
            for row, weight in zip(rows[first + 1 : first + _EIGHT], weights[first + 1 : first + _EIGHT], strict=True):
                of_eight[:width].add_(piece[row], alpha=weight)
            if first == 0:
                wide[:width].copy_(of_eight[:width])
            else:
                wide[:width].add_(widened[:width].copy_(of_eight[:width]))
        total[start : start + width] = wide[:width]
    return total


def _summed(communicator: Communicator, terms: Iterable[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Add up terms of all ranks, many at a time, each shaped like `like`, (L,), and used at once. Collective."""
    total = EntrywiseSum(len(like), like.device)
    batch = like.new_zeros((max(_BATCH // len(like), 1), len(like)), dtype=torch.float64)
    filled = 0
    for term in terms:
        batch[filled] = term
        filled += 1
        if filled == len(batch):
            total.add(batch)
            filled = 0
    if filled:
        total.add(batch[:filled])
    return total.reduce(communicator)


def _bands(rows: torch.Tensor, products: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Return (factor, factor, place) of the bands of the upper triangle of rows @ rowsᵀ; below it comes what comes."""
    if not devices.is_host(rows.device):
        return [(rows, rows.T, products)]  # one kernel costs less than many that do half the work
    ends = range(len(rows), 0, -_BAND)
    bands = [(last, max(last - _BAND, 0)) for last in ends]
    return [(rows[:last], rows[first:last].T, products[:last, first:last]) for last, first in bands]


def _buffer(block: torch.Tensor, number: int, dtype: torch.dtype) -> torch.Tensor:
    width = block.shape[1]
    return block.new_empty((number, width + _PADDING), dtype=dtype)[:, :width]
