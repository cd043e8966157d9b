"""Order statistics of each column of a block (N, W): what coordinate-wise rules are made of. Sums are in float64."""

from __future__ import annotations

import torch

from ppfl.core import devices
from ppfl.rows.sorting_network import sorted_rows


def median(block: torch.Tensor, overwrite: bool = False) -> torch.Tensor:
    """Return the middle value of each column, (W,) float64; of an even number the mean of the two in the middle.

    With `overwrite` the block is used as memory, here and below.
    """
    number = len(block)
    return _middle(sorted_rows(block, (number - 1) // 2, number // 2 + 1, overwrite))


def trimmed_mean(block: torch.Tensor, trimmed: int, overwrite: bool = False) -> torch.Tensor:
    """Return the mean of each column without its `trimmed` smallest and its `trimmed` largest values, (W,) float64."""
    kept = sorted_rows(block, trimmed, len(block) - trimmed, overwrite)
    # added in float64 without a copy in float64
    return kept.sum(dim=0, dtype=torch.float64).div_(len(kept))


def mean_around_median(block: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mean of the `count` values nearest to the median of each column, (W,) float64; count >= N/2.

    Ties go to the lowest row. The nearest values are neighbours when sorted: from the `count` smallest on, the
    smallest one is given up for the next larger one as long as that is nearer to the median.
    """
    number = len(block)
    dropped = number - count
    assert dropped <= count, "otherwise the window may have to move past the middle"
    ordered = sorted_rows(block, 0, number)
    centre = _middle(ordered[(number - 1) // 2 : number // 2 + 1])
    lower, upper = ordered[:dropped].to(torch.float64), ordered[count:].to(torch.float64)
    below, above = centre - lower, upper - centre
    total = torch.where(below > above, upper, lower).sum(dim=0)
    mean = total.add_(ordered[dropped:count].sum(dim=0, dtype=torch.float64)).div_(count)
    # equally far on both sides, but not the same: rows decide, and sorting has forgotten them
    tied = (below == above) & (lower != upper)
    if dropped and not devices.is_host(block.device):
        # all columns, rather than wait for the device to say which
        limit = torch.where(tied, below, 0.0).amax(dim=0)
        return torch.where(tied.any(dim=0), _mean_within(block, centre, limit, count), mean)
    columns = tied.any(dim=0).nonzero()[:, 0]
    if len(columns):
        limit = torch.where(tied, below, 0.0).amax(dim=0)
        mean[columns] = _mean_within(block[:, columns], centre[columns], limit[columns], count)
    return mean


def _middle(ordered: torch.Tensor) -> torch.Tensor:
    return ordered.to(torch.float64).mean(dim=0)


def _mean_within(block: torch.Tensor, centre: torch.Tensor, limit: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mean of the values nearer than `limit` and of the first ones at that distance, `count` in all."""
    wide = block.to(torch.float64)
    distances = (wide - centre).abs_()
    near, tied = distances < limit, distances == limit
    chosen = near | (tied & (tied.cumsum(dim=0) <= count - near.sum(dim=0)))
    return torch.where(chosen, wide, 0.0).sum(dim=0) / count
