"""Sorting the columns of an (N, W) block by whole-row minima and maxima, without branches.

Batcher's merge exchange (Knuth, The Art of Computer Programming 3, Algorithm 5.2.2M) compares rows in an order that
does not depend on the values, so that each comparison is one vectorized minimum and one maximum of two rows. What does
not lead to a wanted row is left out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from ppfl.core import devices

LARGEST_NETWORK = 1024
"""Rows up to which the network is used: there it is still six times as fast as `torch.sort`, but its list gets long."""
_COLUMNS = 8192


class _Comparison(NamedTuple):
    """Rows low < high become their minimum and maximum; a half that nobody wants is not computed."""

    low: int
    high: int
    wants_minimum: bool
    wants_maximum: bool


def sorted_rows(block: torch.Tensor, first: int, last: int, overwrite: bool = False) -> torch.Tensor:
    """Return rows first … last − 1 of the block (N, W) with each column sorted in ascending order.

    Values are finite. The same values as `block.sort(dim=0).values[first:last]`. With `overwrite` the block is used as
    memory.
    """
    # a comparison is a kernel on other devices, which sort by themselves
    if len(block) > LARGEST_NETWORK or block.shape[1] > _COLUMNS or not devices.is_host(block.device):
        return block.sort(dim=0).values[first:last]
    buffers = list((block if overwrite else block.clone()).unbind(0))
    spare = torch.empty_like(buffers[0])
    for low, high, wants_minimum, wants_maximum in _network(len(block), first, last):
        a, b = buffers[low], buffers[high]
        # the minimum goes to a spare row, since the maximum needs both as they were; then rows change their names,
        # and none is copied
        if wants_minimum and wants_maximum:
            torch.minimum(a, b, out=spare)
            torch.maximum(a, b, out=b)
            buffers[low], spare = spare, a
        elif wants_minimum:
            torch.minimum(a, b, out=a)
        else:
            torch.maximum(a, b, out=b)
    return torch.stack(buffers[first:last])


@lru_cache(maxsize=64)
def _network(number: int, first: int, last: int) -> tuple[_Comparison, ...]:
    """Return the comparisons that lead to rows first … last − 1 of `number`."""
    # from the end to the beginning: what a comparison has to deliver is what later ones read
    wanted = set(range(first, last))
    kept: list[_Comparison] = []
    for low, high in reversed(_merge_exchange(number)):
        if low in wanted or high in wanted:
            kept.append(_Comparison(low, high, low in wanted, high in wanted))
            wanted |= {low, high}
    return tuple(reversed(kept))


def _merge_exchange(number: int) -> list[tuple[int, int]]:
    """Return pairs of rows to be compared, in their order."""
    pairs = []
    # p, q, r and d are those of Knuth's Algorithm M, to be compared line by line
    largest = 1 << max(number - 1, 0).bit_length() >> 1
    p = largest
    while p:
        q, r, d = largest, 0, p
        while True:
            pairs += [(i, i + d) for i in range(number - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return pairs
