"""What is made of N rows in one pass over blocks of their columns: copies, mixtures, inner products, distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.entrywise_sum import EntrywiseSum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ppfl.core.communicator import Communicator

_BAND = 24
"""Products are taken by bands of so many columns: what kernels for AVX2 compute at once, in float64 12, times two."""
_PADDING = 8
"""Unused numbers after each row: rows at a distance of 2**16 bytes would compete for the same lines of the cache."""
_BATCH = 1 << 18
"""Entries of products that are kept until they are added, all at once: for 50 rows 100 blocks, 2 MB."""


def copied(blocks: Iterable[torch.Tensor], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Yield copies of the (n, B) blocks, each in the place of the one before it: use it before asking for the next.

    Memory that is used again is not handed to us page by page, which took half the time of a mixture. Strides depend
    on the shape of a block alone, since kernels round differently for other ones.
    """
    buffer = None
    for block in blocks:
        if buffer is None or buffer.shape != block.shape:
            buffer = _buffer(block, len(block), dtype)
        yield buffer.copy_(block)


def mixed(mixing: torch.Tensor, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield mixing @ block, in float64, each in the place of the one before it; (N', n) times (n, B)."""
    buffer = None
    for wide in copied(blocks, torch.float64):
        if buffer is None or buffer.shape[1] != wide.shape[1]:
            buffer = _buffer(wide, len(mixing), torch.float64)
        yield torch.mm(mixing, wide, out=buffer)


def products_around(
    communicator: Communicator, blocks: Iterable[torch.Tensor], like: torch.Tensor, centre: int
) -> torch.Tensor:
    """Return K_ij = ⟨z_i, z_j⟩ with z_c = x_c and z_i = x_i − x_c else, (n, n) float64 on the CPU. Collective.

    `like`, (n, n), has the device, also on a rank without blocks. NaN and inf in a row are found in K_ii, those of
    row c in all.
    """

    def of_blocks() -> Iterator[torch.Tensor]:
        found = torch.zeros_like(like, dtype=torch.float64)
        for wide in copied(blocks, torch.float64):
            origin = wide[centre].clone()
            wide.sub_(origin)
            wide[centre] = origin
            _upper_products(wide, found)
            yield found.flatten()

    products = _summed(communicator, of_blocks(), like.flatten()).reshape(like.shape)
    return products.triu() + products.triu(1).T


def squared_distances_to(
    communicator: Communicator, blocks: Iterable[torch.Tensor], like: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """‖x_i − Σ_j a_j x_j‖², (n,) float64 on the CPU; a = 0 gives the squares of norms. Collective.

    `like`, (n,), has the device, also on a rank without blocks. NaN and inf in a row are found in its own norm.
    """
    is_somewhere = bool(weights.any())
    weights = weights.to(like.device, torch.float64)

    def of_blocks() -> Iterator[torch.Tensor]:
        for wide in copied(blocks, torch.float64):
            if is_somewhere:
                wide.sub_(torch.mv(wide.T, weights))
            yield wide.square_().sum(dim=1)

    return _summed(communicator, of_blocks(), like)


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


def _upper_products(rows: torch.Tensor, products: torch.Tensor) -> None:
    """Fill in the upper triangle of rows @ rowsᵀ; below it stands what comes with it."""
    for last in range(len(rows), 0, -_BAND):
        first = max(last - _BAND, 0)
        torch.mm(rows[:last], rows[first:last].T, out=products[:last, first:last])


def _buffer(block: torch.Tensor, number: int, dtype: torch.dtype) -> torch.Tensor:
    width = block.shape[1]
    return block.new_empty((number, width + _PADDING), dtype=dtype)[:, :width]
