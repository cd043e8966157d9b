"""Order statistics of each column of a block (N, B): what coordinate-wise rules are made of. Sums are in float64."""

from __future__ import annotations

import torch

from ppfl.core.sorting_network import sorted_rows


def median(block: torch.Tensor) -> torch.Tensor:
    """Return the middle value of each column, (B,) float64; of an even number the mean of the two in the middle."""
    number = len(block)
    middle = sorted_rows(block, (number - 1) // 2, number // 2 + 1)
    return middle.to(torch.float64).mean(dim=0)


def trimmed_mean(block: torch.Tensor, trimmed: int) -> torch.Tensor:
    """Return the mean of each column without its `trimmed` smallest and its `trimmed` largest values, (B,) float64."""
    return sorted_rows(block, trimmed, len(block) - trimmed).to(torch.float64).mean(dim=0)


def mean_around_median(block: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mean of the `count` values nearest to the median of each column, (B,) float64.

    Ties go to the lowest row.
    """
    wide = block.to(torch.float64)
    order = (wide - median(block)).abs().argsort(dim=0, stable=True)
    return wide.gather(0, order[:count]).mean(dim=0)
