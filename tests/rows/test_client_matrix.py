"""The client matrix equals dense algebra, with the same bits on any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np
import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.rows.client_matrix import ClientMatrix
from ppfl.rows.client_rows import BLOCK_COLUMNS, LARGEST, ClientRows, column_bounds
from ppfl.rows.gram import _MAX_LOST_BITS_AT_ORIGIN, TIE, first_centre, squared_distances
from tests.ranks import client_matrix_of, on_ranks

N = 7
DIMENSIONS = [1, 100, BLOCK_COLUMNS, 2 * BLOCK_COLUMNS + 5]


def rows(dimension: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(dimension).standard_normal((N, dimension))) + 3.0


def parts(communicator, everything: torch.Tensor) -> ClientMatrix:  # type: ignore[no-untyped-def]
    first = N * communicator.rank // communicator.size
    last = N * (communicator.rank + 1) // communicator.size
    return client_matrix_of(communicator, everything[first:last].contiguous())


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_operations_equal_dense_algebra(dimension: int) -> None:
    x = rows(dimension)
    matrix = client_matrix_of(SoloCommunicator(), x)
    distances = (x[:, None] - x[None]).square().sum(dim=2)
    torch.testing.assert_close(squared_distances(matrix.gram()), distances)
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


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_rows_come_back_mixed_or_not(num_ranks: int, dimension: int) -> None:
    """A vector for each client, such as what it would make of those of others; the last rank takes none."""
    x = rows(dimension)
    mixing = torch.from_numpy(np.random.default_rng(1).random((4, N)))
    shares = [4] if num_ranks == 1 else [*([1] * (num_ranks - 2)), 6 - num_ranks, 0]

    def compute(communicator):  # type: ignore[no-untyped-def]
        matrix = parts(communicator, x)
        first = N * communicator.rank // communicator.size
        last = N * (communicator.rank + 1) // communicator.size
        assert torch.equal(matrix.to_rows(last - first), x[first:last])
        return matrix.mix(mixing).to_rows(shares[communicator.rank])

    (alone,) = on_ranks(1, lambda communicator: parts(communicator, x).mix(mixing).to_rows(4))
    torch.testing.assert_close(alone, mixing @ x)
    assert torch.equal(torch.cat(on_ranks(num_ranks, compute)), alone)


def test_distances_survive_a_large_common_offset() -> None:
    """Centring: in float32, rows that differ by 1e-3 at 1e4 keep their distances."""
    x = (torch.eye(N, 50) * 1e-3 + 1e4).to(torch.float32)
    gram = client_matrix_of(SoloCommunicator(), x).gram()
    distances = gram.diagonal()[:, None] + gram.diagonal()[None, :] - 2 * gram
    exact = torch.cdist(x.double(), x.double()).square()
    torch.testing.assert_close(distances, exact, rtol=1e-9, atol=1e-18)


def test_columns_are_dealt_in_whole_blocks() -> None:
    bounds = column_bounds(5 * BLOCK_COLUMNS + 1, 4, BLOCK_COLUMNS)
    assert bounds[0] == 0
    assert bounds[-1] == 5 * BLOCK_COLUMNS + 1
    assert all(bound % BLOCK_COLUMNS == 0 for bound in bounds[:-1])
    assert bounds == sorted(bounds)


@pytest.mark.parametrize("number", [1, 2, 23, 24, 25, 50, 73])
def test_bands_of_products_make_the_whole(number: int) -> None:
    """In each number type, and the same on three ranks; some rows are repeated."""
    draw = np.random.default_rng(number)
    for dtype in (np.float32, np.float64):
        x = torch.from_numpy(draw.standard_normal((number, 2 * BLOCK_COLUMNS + 77)).astype(dtype)) + 0.5
        x[number // 2] = x[number - 1]
        wide = x.double()
        matrix = client_matrix_of(SoloCommunicator(), x)
        gram = matrix.gram()
        torch.testing.assert_close(gram, wide @ wide.T if number > 1 else gram.new_zeros(1, 1), rtol=1e-13, atol=1e-9)
        assert torch.equal(gram, gram.T)
        torch.testing.assert_close(matrix.squared_norms(), x.double().square().sum(dim=1), rtol=1e-12, atol=0)
        share = [x[number * rank // 3 : number * (rank + 1) // 3].contiguous() for rank in range(3)]
        for got in on_ranks(3, lambda c, share=share: client_matrix_of(c, share[c.rank]).gram()):
            assert torch.equal(got, gram)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_distances_to_a_point_equal_dense_algebra(dimension: int, dtype: torch.dtype) -> None:
    """And have the same bits on three ranks."""
    x = rows(dimension).to(dtype)
    mixing = torch.from_numpy(np.random.default_rng(1).random((3, N)))
    weights = torch.linspace(-1, 1.5, N, dtype=torch.float64)
    for wide, of in ((x.double(), lambda matrix: matrix), (mixing @ x.double(), lambda matrix: matrix.mix(mixing))):
        matrix = of(client_matrix_of(SoloCommunicator(), x))
        squares = matrix.squared_norms()
        torch.testing.assert_close(squares, wide.square().sum(dim=1), rtol=1e-12, atol=0)
        near = weights[: len(wide)]
        away = matrix.squared_distances_to(near)
        torch.testing.assert_close(away, (wide - near @ wide).square().sum(dim=1), rtol=1e-12, atol=0)
        for got in on_ranks(3, lambda c, of=of, near=near: of(parts(c, x)).squared_distances_to(near)):
            assert torch.equal(got, away)
        for got in on_ranks(3, lambda c, of=of: of(parts(c, x)).squared_norms()):
            assert torch.equal(got, squares)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_a_huge_row_do_not_blur_those_of_the_others(dtype: torch.dtype) -> None:
    x = torch.randn(9, 3 * BLOCK_COLUMNS, generator=torch.Generator().manual_seed(1), dtype=dtype)
    x[5] = 1e30 if dtype == torch.float32 else 1e90
    gram = client_matrix_of(SoloCommunicator(), x).gram()
    kept = [0, 1, 2, 3, 4, 6, 7, 8]
    wide = x[kept].double()
    torch.testing.assert_close(gram[kept][:, kept], wide @ wide.T, rtol=1e-13, atol=1e-9)


def test_equal_rows_have_equal_distances() -> None:
    """To the last digits that the rules look at, wherever in the products they stand."""
    x = torch.randn(50, 2 * BLOCK_COLUMNS + 3, generator=torch.Generator().manual_seed(2))
    x[[7, 24, 49]] = x[3].clone()
    distances = squared_distances(client_matrix_of(SoloCommunicator(), x).gram())
    others = [row for row in range(50) if row not in (3, 7, 24, 49)]
    for copy in (7, 24, 49):
        torch.testing.assert_close(distances[copy, others], distances[3, others], rtol=TIE / 10, atol=0)
        assert distances[3, copy] <= TIE * distances[3, others].min()


@pytest.mark.parametrize("number", [20, 42])
def test_equal_rows_have_equal_distances_as_far_from_0_as_is_not_centred(number: int) -> None:
    """Squares nine tenths as large as they may be beside squared distances of about 2·D."""
    dimension = BLOCK_COLUMNS
    half = torch.randn(number // 2, dimension, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = torch.cat([half, half]) + math.sqrt(0.9 * 2**_MAX_LOST_BITS_AT_ORIGIN * 2.0 - 1.0)
    assert first_centre(x @ x.T) is None
    assert first_centre((x * 1.1) @ (x * 1.1).T) is None  # scaling changes nothing
    assert first_centre((x + 1.0) @ (x + 1.0).T) is not None
    distances = squared_distances(client_matrix_of(SoloCommunicator(), x).gram())
    between = ~torch.eye(number // 2, dtype=torch.bool)
    one, other = distances[: number // 2, : number // 2][between], distances[number // 2 :, : number // 2][between]
    assert float((one / other - 1.0).abs().max()) <= TIE


LOOKS: dict[str, Callable[[ClientMatrix], torch.Tensor]] = {
    "products": lambda matrix: matrix.gram(),
    "norms": lambda matrix: matrix.norms(),
    "exact norms": lambda matrix: matrix.exact_norms(),
    "distances": lambda matrix: matrix.squared_distances_to(torch.ones(N)),
    "sum": lambda matrix: matrix.combine(torch.ones(N)),
    "entries": lambda matrix: matrix.coordinatewise(lambda block: block[0]),
    "some rows": lambda matrix: matrix.select(torch.tensor([1])).combine(torch.ones(1)),
    "norms of mixed rows": lambda matrix: matrix.mix(torch.eye(N)).norms(),
    "entries of mixed rows": lambda matrix: matrix.mix(torch.eye(N)).coordinatewise(lambda block: block[0]),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("row", [0, 4])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e141, -1e141, 1e139, 1e30])
def test_rows_that_are_not_finite_are_found(bad: float, row: int, look: Callable[[ClientMatrix], torch.Tensor]) -> None:
    """Also what only the products would notice, or only the range of a float32."""
    for dtype in (np.float32, np.float64):
        with np.errstate(over="ignore"):
            value = dtype(bad)
        x = rows(2 * BLOCK_COLUMNS + 5).to(torch.float32 if dtype is np.float32 else torch.float64)
        x[row, BLOCK_COLUMNS + 1] = float(value)
        expected = torch.ones(N, dtype=torch.bool)
        expected[row] = bool(np.isfinite(value)) and abs(float(value)) <= LARGEST

        def found_in(communicator, x=x):  # type: ignore[no-untyped-def]
            matrix = parts(communicator, x)
            return matrix.if_finite(lambda: look(matrix)), matrix.finite()

        for made, found in on_ranks(3, found_in):
            assert torch.equal(found, expected)
            assert (made is None) == (not expected.all())


@pytest.mark.parametrize("look", ["products", "norms", "exact norms", "norms of mixed rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_and_norms_prove_that_rows_are_finite(
    dtype: torch.dtype, look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pass is spent on entries."""
    monkeypatch.delattr(ClientRows, "_within_range")
    matrix = client_matrix_of(SoloCommunicator(), rows(100).to(dtype))
    assert matrix.if_finite(lambda: LOOKS[look](matrix)) is not None
    assert matrix.finite().all()


def test_what_is_not_finite_is_left_to_who_asked_first_and_may_be_seen_afterwards() -> None:
    x = rows(100)
    x[2, 3] = math.nan
    matrix = client_matrix_of(SoloCommunicator(), x)
    inside = []

    def compute() -> torch.Tensor:
        inside.append(matrix.if_finite(matrix.norms))
        return torch.ones(1)

    assert matrix.if_finite(compute) is None
    assert inside == []
    assert matrix.coordinatewise(lambda block: block[2]).isnan().sum() == 1


def test_one_row_is_handed_out_as_it_is_and_few_rows_are_summed_alone() -> None:
    for dtype in (torch.float32, torch.float64):
        x = rows(2 * BLOCK_COLUMNS + 5).to(dtype)
        matrix = client_matrix_of(SoloCommunicator(), x)
        one = torch.zeros(N, dtype=torch.float64)
        one[3] = 1.0
        assert torch.equal(matrix.combine(one), x[3])
        one[3] = 0.5
        assert torch.equal(matrix.combine(one), x[3] / 2)
        one[5] = 0.25
        torch.testing.assert_close(matrix.combine(one), x[3] / 2 + x[5] / 4)
        assert torch.equal(matrix.combine(torch.zeros(N, dtype=torch.float64)), torch.zeros_like(x[0]))


def test_mixed_blocks_have_the_number_type_of_the_rows_unless_exact() -> None:
    x = rows(100).to(torch.float32)
    mixed = client_matrix_of(SoloCommunicator(), x).mix(torch.full((2, N), 1 / N, dtype=torch.float64))
    seen = []
    for exact in (False, True):
        mixed.coordinatewise(lambda block: seen.append(block.clone()) or block[0], exact)
    assert [block.dtype for block in seen] == [torch.float32, torch.float64]
    assert torch.equal(seen[0], seen[1].to(torch.float32))


@pytest.mark.parametrize("num_bytes", [1, 8 * 20_000, 3 * 8 * 20_000, 1 << 30])
@pytest.mark.parametrize("counts", [(7,), (3, 0, 4), (1, 5, 1), (0, 0, 7)], ids=str)
@pytest.mark.parametrize("sizes", [(1,), (2,), (3, 0, 1), (7,)], ids=str)
def test_rows_that_come_in_any_blocks_make_the_same_matrix(
    sizes: tuple[int, ...], counts: tuple[int, ...], num_bytes: int
) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((7, 20_000)))
    wanted = client_matrix_of(SoloCommunicator(), x)
    weights = torch.arange(7, dtype=torch.float64)

    def blocks_of(mine: torch.Tensor) -> Iterator[torch.Tensor]:
        start = 0
        for size in cycle(sizes):
            if start >= len(mine):
                return
            yield mine[start : start + size]
            start += size

    def build(communicator):  # type: ignore[no-untyped-def]
        first = sum(counts[: communicator.rank])
        mine = x[first : first + counts[communicator.rank]]
        matrix = ClientMatrix.from_stream(communicator, blocks_of(mine), len(mine), x[0], num_bytes)
        return matrix.num_vectors, matrix.combine(weights), matrix.gram()

    for num_vectors, combined, gram in on_ranks(len(counts), build):
        assert num_vectors == 7
        assert torch.equal(combined, wanted.combine(weights))
        assert torch.equal(gram, wanted.gram())


@pytest.mark.parametrize("num_bytes", [8, 1 << 20])
@pytest.mark.parametrize("announced", [5, 7])
def test_more_or_fewer_rows_than_announced_are_refused(announced: int, num_bytes: int) -> None:
    blocks = [torch.ones(4, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)]
    with pytest.raises(AssertionError, match="rows than announced"):
        ClientMatrix.from_stream(SoloCommunicator(), blocks, announced, blocks[0][0], num_bytes)
