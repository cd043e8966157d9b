"""Sums over float32 rows that begin in float32: how exact they are, and when they give way to float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.rows import client_rows
from ppfl.rows.client_rows import BLOCK_COLUMNS
from ppfl.rows.products import squared_norms_by_pieces, sum_by_eights
from tests.ranks import client_matrix_of, on_ranks

N = 50
DIMENSION = 3 * BLOCK_COLUMNS + 333


def rows(kind: str, dimension: int = DIMENSION) -> torch.Tensor:
    draw = np.random.default_rng(3)
    x = draw.standard_normal((N, dimension))
    if kind == "spread":
        x *= 10.0 ** draw.integers(-12, 12, (N, 1))
    if kind == "far from 0":
        x += 1e3
    if kind == "constant":
        x = np.repeat(draw.standard_normal((N, 1)), dimension, axis=1)
    return torch.from_numpy(x.astype(np.float32))


KINDS = ["normal", "spread", "far from 0", "constant"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [2, 7, 8, 9, 50])
def test_sums_are_as_exact_as_they_say(number: int, kind: str) -> None:
    x = rows(kind)
    weights = np.random.default_rng(4).standard_normal(number)
    chosen = list(range(N - number, N))
    got = sum_by_eights(x, chosen, weights.tolist())
    assert got is not None
    terms = weights[:, None] * x[chosen].double().numpy()
    error = np.abs(got.double().numpy() - terms.sum(axis=0))
    assert (error <= 6e-7 * np.abs(terms).sum(axis=0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_as_exact_as_they_say(kind: str) -> None:
    x = rows(kind)
    want = x.double().square().sum(dim=1)
    got = squared_norms_by_pieces(SoloCommunicator(), torch.split(x, 2 * BLOCK_COLUMNS, 1), BLOCK_COLUMNS, x[:, 0])
    assert got is not None
    torch.testing.assert_close(got, want, rtol=1.6e-6, atol=0)
    matrix = client_matrix_of(SoloCommunicator(), x)
    torch.testing.assert_close(matrix.norms(), want.sqrt(), rtol=8e-7, atol=0)
    torch.testing.assert_close(matrix.squared_norms(), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("factor", [1e-25, 1e-15, 1e15, 1e25])
def test_what_float32_cannot_square_is_squared_in_float64(factor: float) -> None:
    x = rows("normal")
    x[[3, 4]] *= factor
    want = x.double().square().sum(dim=1).sqrt()
    torch.testing.assert_close(client_matrix_of(SoloCommunicator(), x).norms(), want, rtol=8e-7, atol=0)


def test_rows_of_zeros_have_norm_0() -> None:
    x = rows("normal")
    x[5] = 0.0
    assert client_matrix_of(SoloCommunicator(), x).norms()[5] == 0.0


@pytest.mark.parametrize("weight", [1e-31, 1e-40, 1e31])
def test_weights_that_float32_does_not_hold_are_left_to_float64(weight: float) -> None:
    """A vector far away that counts for little: 1e30 times 1e-31."""
    x = rows("normal")
    x[7] *= 1e30 if weight < 1 else 1e-30
    weights = torch.full((N,), 1 / N, dtype=torch.float64)
    weights[7] = weight
    assert sum_by_eights(x, list(range(N)), weights.tolist()) is None
    torch.testing.assert_close(
        client_matrix_of(SoloCommunicator(), x).combine(weights), (weights @ x.double()).float(), rtol=1e-6, atol=1e-7
    )


def test_sums_that_overflow_on_the_way_are_taken_in_float64() -> None:
    """25 times 3e38 and 24 times −3e38, the first two of one sign."""
    x = torch.full((N, 100), 3e38)
    x[2:50:2] = -3e38
    weights = torch.ones(N, dtype=torch.float64)
    weights[49] = 0.0
    assert torch.equal(client_matrix_of(SoloCommunicator(), x).combine(weights), torch.full((100,), 3e38))


def shares(x: torch.Tensor, compute: Callable[[Any], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
    def of_rank(communicator: Any) -> torch.Tensor:
        first, last = (N * rank // communicator.size for rank in (communicator.rank, communicator.rank + 1))
        return compute(client_matrix_of(communicator, x[first:last].contiguous()))

    return of_rank


@pytest.mark.parametrize("dimension", [1, 77, BLOCK_COLUMNS, 40 * BLOCK_COLUMNS + 77])
def test_ranks_do_not_change_a_bit(dimension: int) -> None:
    """Also where a rank adds up more than one stretch of columns at a time, or ends within one."""
    x = rows("normal", dimension)
    weights = torch.linspace(-1, 1, N, dtype=torch.float64)
    for compute in (lambda matrix: matrix.combine(weights), lambda matrix: matrix.norms()):
        alone = on_ranks(1, shares(x, compute))[0]
        for num_ranks in (2, 3, 4):
            for got in on_ranks(num_ranks, shares(x, compute)):
                assert torch.equal(got, alone)


@pytest.mark.parametrize("offset", range(1, 17))
def test_alignment_does_not_change_a_bit(offset: int) -> None:
    x = rows("normal")
    wide = torch.empty(N, DIMENSION + 40)
    shifted = wide[:, offset : offset + DIMENSION].copy_(x)
    numbers, weights = list(range(N)), torch.linspace(-1, 1, N).tolist()
    one, other = (sum_by_eights(rows, numbers, weights) for rows in (x, shifted))
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)
    one, other = (
        squared_norms_by_pieces(SoloCommunicator(), torch.split(rows, 2 * BLOCK_COLUMNS, 1), BLOCK_COLUMNS, x[:, 0])
        for rows in (x, shifted)
    )
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)


@pytest.fixture
def centres(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Around which rows products of all columns are taken, in this order."""
    seen: list[int | None] = []
    take = client_rows.products_around

    def noting(communicator: Any, blocks: Any, like: torch.Tensor, centre: int | None) -> torch.Tensor:
        seen.append(centre)
        return take(communicator, blocks, like, centre)

    monkeypatch.setattr(client_rows, "products_around", noting)
    return seen


@pytest.mark.parametrize("attacker", [None, 0, 9])
@pytest.mark.parametrize("kind", ["normal", "far from 0"])
def test_one_pass_finds_distances_whether_rows_are_far_from_0_or_not(
    kind: str, attacker: int | None, centres: list[int | None]
) -> None:
    x = rows(kind)
    if attacker is not None:
        x[attacker] *= -1e6
    gram = client_matrix_of(SoloCommunicator(), x).gram()
    assert len(centres) == 1
    assert (centres[0] is None) == (kind == "normal")
    honest = [row for row in range(N) if row != attacker]
    distances = gram.diagonal()[:, None] + gram.diagonal()[None, :] - 2 * gram
    exact = torch.stack([(x.double() - row).square().sum(dim=1) for row in x.double()])
    torch.testing.assert_close(distances[honest][:, honest], exact[honest][:, honest], rtol=1e-11, atol=1e-9)


def test_rows_whose_first_columns_mislead_are_centred_in_a_second_pass(centres: list[int | None]) -> None:
    x = rows("normal")
    x[:, BLOCK_COLUMNS:] += 1e4
    gram = client_matrix_of(SoloCommunicator(), x).gram()
    assert centres[0] is None
    assert len(centres) == 2
    centred = x.double() - x[centres[1]].double()
    torch.testing.assert_close(gram, centred @ centred.T, rtol=1e-11, atol=1e-7)


def test_norms_have_the_same_bits_whether_products_are_there_or_not() -> None:
    x = rows("normal")
    alone = client_matrix_of(SoloCommunicator(), x).norms()
    matrix = client_matrix_of(SoloCommunicator(), x)
    matrix.gram()
    assert torch.equal(matrix.norms(), alone)
