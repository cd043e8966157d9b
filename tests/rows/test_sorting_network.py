"""The sorting network gives the rows that `torch.sort` gives."""

from __future__ import annotations

import pytest
import torch

from ppfl.rows.sorting_network import LARGEST_NETWORK, sorted_rows


@pytest.mark.parametrize("number", [*range(1, 18), 31, 32, 33, 50, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_those_of_sort(number: int, dtype: torch.dtype) -> None:
    """With and without ties; the block stays as it is."""
    generator = torch.Generator().manual_seed(number)
    for block in (
        torch.randn(number, 65, generator=generator, dtype=dtype),
        torch.randint(0, 4, (number, 65), generator=generator).to(dtype),
    ):
        before, expected = block.clone(), block.sort(dim=0).values
        for first, last in ((0, number), ((number - 1) // 2, number // 2 + 1), (number // 4, number - number // 4)):
            assert torch.equal(sorted_rows(block, first, last), expected[first:last])
        assert torch.equal(block, before)
        padded = torch.cat([block, block], dim=1)[:, :65]
        assert torch.equal(sorted_rows(padded, 0, number, overwrite=True), expected)


@pytest.mark.parametrize("number", range(1, 13))
def test_every_order_of_zeros_and_ones_is_sorted(number: int) -> None:
    """A network that sorts all of them sorts everything (Knuth 5.3.4, the zero-one principle)."""
    columns = torch.arange(2**number)
    block = torch.stack([(columns >> row) & 1 for row in range(number)]).to(torch.float32)
    assert torch.equal(sorted_rows(block, 0, number), block.sort(dim=0).values)


def half_sorted(number: int) -> list[torch.Tensor]:
    """Zeros and ones whose rows at distance 2, 4, 8, … are sorted, as one pass of the network leaves them to the next.

    Random rows hardly ever need every comparison of the later passes; these do, of each pass alone.
    """
    generator = torch.Generator().manual_seed(number)
    level = torch.linspace(0, 1, 500)
    blocks = []
    for step in (2**k for k in range(1, number.bit_length() + 1)):
        for spread in (1, 3, number):
            block = torch.zeros(number, len(level))
            for first in range(min(step, number)):
                count = len(range(first, number, step))
                zeros = count * level + spread * (torch.rand(level.shape, generator=generator) - 0.5)
                block[first::step] = (torch.arange(count).unsqueeze(1) >= zeros.round()).to(torch.float32)
            blocks.append(block)
    return blocks


@pytest.mark.parametrize("number", [13, 16, 17, 31, 32, 33, 50, 100])
def test_no_comparison_is_missing(number: int) -> None:
    """Tried with each one left out: in networks for all rows every one is noticed, of which random rows miss 1 in 9."""
    for block in half_sorted(number):
        expected = block.sort(dim=0).values
        for first, last in ((0, number), ((number - 1) // 2, number // 2 + 1), (number // 4, number - number // 4)):
            assert torch.equal(sorted_rows(block, first, last), expected[first:last])


def test_many_rows_and_many_columns() -> None:
    for shape in ((LARGEST_NETWORK + 1, 3), (3, 8193)):
        block = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(sorted_rows(block, 1, 2), block.sort(dim=0).values[1:2])
