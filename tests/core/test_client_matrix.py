"""The client matrix equals dense algebra, with the same bits on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.client_matrix import BLOCK_COLUMNS, ClientMatrix, column_bounds
from tests.ranks import on_ranks

N = 7
DIMENSIONS = [1, 100, BLOCK_COLUMNS, 2 * BLOCK_COLUMNS + 5]


def rows(dimension: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(dimension).standard_normal((N, dimension))) + 3.0


def parts(communicator, everything: torch.Tensor) -> ClientMatrix:  # type: ignore[no-untyped-def]
    first = N * communicator.rank // communicator.size
    last = N * (communicator.rank + 1) // communicator.size
    return ClientMatrix.from_rows(communicator, everything[first:last].contiguous())


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_operations_equal_dense_algebra(dimension: int) -> None:
    x = rows(dimension)
    matrix = ClientMatrix.from_rows(SoloCommunicator(), x)
    centred = x - x[:1]
    torch.testing.assert_close(matrix.gram(), centred @ centred.T)
    weights = torch.linspace(-1, 1, N, dtype=torch.float64)
    torch.testing.assert_close(matrix.combine(weights), weights @ x)
    mixing = torch.from_numpy(np.random.default_rng(1).random((3, N)))
    mixed = matrix.mix(mixing)
    assert mixed.num_vectors == 3
    torch.testing.assert_close(mixed.combine(torch.ones(3, dtype=torch.float64)), (mixing @ x).sum(dim=0))
    torch.testing.assert_close(matrix.coordinatewise(lambda block: block.median(dim=0).values), x.median(dim=0).values)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_ranks_do_not_change_a_bit(num_ranks: int, dimension: int) -> None:
    x = rows(dimension)
    weights = torch.linspace(-1, 1, N, dtype=torch.float64)
    mixing = torch.from_numpy(np.random.default_rng(1).random((3, N)))

    def compute(communicator):  # type: ignore[no-untyped-def]
        matrix = parts(communicator, x)
        mixed = matrix.mix(mixing)
        return matrix.gram(), matrix.combine(weights), mixed.gram(), matrix.coordinatewise(lambda b: b.amax(dim=0))

    expected = on_ranks(1, compute)[0]
    for results in on_ranks(num_ranks, compute):
        for got, want in zip(results, expected, strict=True):
            assert torch.equal(got, want)


def test_distances_survive_a_large_common_offset() -> None:
    """Centring: in float32, rows that differ by 1e-3 at 1e4 keep their distances."""
    x = (torch.eye(N, 50) * 1e-3 + 1e4).to(torch.float32)
    gram = ClientMatrix.from_rows(SoloCommunicator(), x).gram()
    distances = gram.diagonal()[:, None] + gram.diagonal()[None, :] - 2 * gram
    exact = torch.cdist(x.double(), x.double()).square()
    torch.testing.assert_close(distances, exact, rtol=1e-9, atol=1e-18)


def test_columns_are_dealt_in_whole_blocks() -> None:
    bounds = column_bounds(5 * BLOCK_COLUMNS + 1, 4)
    assert bounds[0] == 0
    assert bounds[-1] == 5 * BLOCK_COLUMNS + 1
    assert all(bound % BLOCK_COLUMNS == 0 for bound in bounds[:-1])
    assert bounds == sorted(bounds)
