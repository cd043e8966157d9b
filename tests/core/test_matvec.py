"""Products whose bits depend on their numbers alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ppfl.core import matvec as module
from ppfl.core.matvec import Matrices, by_columns, matvec, plus_product, residual

SHAPES = [(1, 1), (1, 5), (5, 1), (3, 2), (8, 4), (13, 7), (17, 33), (50, 50), (0, 3), (3, 0), (0, 0)]
TYPES = [torch.float64, torch.float32]


def in_order(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Add column after column, every product and every sum rounded by itself."""
    total = torch.zeros(len(matrix), dtype=matrix.dtype)
    for column, factor in zip(matrix.T, vector, strict=True):
        total = total + column * factor
    return total


def some(shape: tuple[int, int], number: int, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    draw = np.random.default_rng(number)
    matrices = [torch.tensor(draw.standard_normal(shape)).to(dtype) for _ in range(number)]
    return matrices, torch.tensor(draw.standard_normal((number, shape[1]))).to(dtype)


@pytest.fixture(params=["compiled", "plain"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled loops, which are there where tests run, and as it is without Numba."""
    if request.param == "plain":
        monkeypatch.setattr(module, "compiled_loops", lambda: None)
    else:
        assert module.compiled_loops() is not None


LAYOUTS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    torch.Tensor.contiguous,
    by_columns,
    lambda matrix: torch.stack([matrix, matrix], dim=2)[:, :, 1],
]


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_columns_are_added_in_order_whatever_the_layout_and_the_number(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    matrices, vectors = some(shape, 3, dtype)
    want = torch.stack([in_order(matrix, vector) for matrix, vector in zip(matrices, vectors, strict=True)])
    for layout in LAYOUTS:
        of_layout = [layout(matrix) for matrix in matrices]
        assert torch.equal(Matrices(of_layout).times(vectors), want)
        for matrix, vector, product in zip(of_layout, vectors, want, strict=True):
            assert torch.equal(matvec(matrix, vector), product)
            assert torch.equal(matvec(matrix, torch.stack([vector, vector], dim=1)[:, 0]), product)
            assert torch.equal(matvec(matrix.T.contiguous().T, vector), product)
    torch.testing.assert_close(want, torch.stack([m @ v for m, v in zip(matrices, vectors, strict=True)]))


@pytest.mark.usefixtures("_way")
def test_lanes_may_share_matrices_in_any_order() -> None:
    (first, second), vectors = some((6, 4), 2, torch.float64)
    six = [second, first, second, second, first, first]
    of_six = vectors.repeat(3, 1) + torch.arange(6.0)[:, None]
    together = Matrices([by_columns(matrix) for matrix in six]).times(of_six)
    shared = [by_columns(first), by_columns(second)]
    apart = Matrices([shared[1], shared[0], shared[1], shared[1], shared[0], shared[0]]).times(of_six)
    assert torch.equal(together, apart)
    assert torch.equal(together, torch.stack([in_order(m, v) for m, v in zip(six, of_six, strict=True)]))


@pytest.mark.usefixtures("_way")
def test_what_is_not_finite_stays_so() -> None:
    matrix = torch.tensor([[1.0, torch.inf], [0.0, 1.0]], dtype=torch.float64)
    product = matvec(matrix, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert product.isnan().tolist() == [True, False]


def test_derivatives_and_vectorized_functions_are_torchs() -> None:
    (matrix, other), vectors = some((4, 4), 2, torch.float64)
    x = vectors[0].clone().requires_grad_()
    matvec(matrix, x).sum().backward()
    torch.testing.assert_close(x.grad, matrix.sum(dim=0))
    together = torch.func.vmap(matvec)(torch.stack([matrix, other]), vectors)
    torch.testing.assert_close(together, torch.stack([matrix @ vectors[0], other @ vectors[1]]))


def test_what_does_not_fit_is_refused_and_not_read_beyond_its_end() -> None:
    (matrix, other), vectors = some((3, 4), 2, torch.float64)
    with pytest.raises(RuntimeError, match="size mismatch"):
        matvec(matrix, vectors[0, :3])
    with pytest.raises(RuntimeError):
        matvec(matrix, vectors)
    with pytest.raises(ValueError, match=r"vectors \(2, 4\) torch.float32 for 2 matrices \(3, 4\)"):
        Matrices([matrix, other]).times(vectors.float())
    with pytest.raises(ValueError, match=r"vectors \(2, 3\)"):
        Matrices([matrix, other]).times(vectors[:, :3])
    with pytest.raises(ValueError, match="different shapes"):
        Matrices([matrix, other.T])


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_terms_that_are_added_on_the_way_have_the_bits_of_those_added_later(dtype: torch.dtype) -> None:
    matrices, vectors = some((13, 7), 5, dtype)
    shared = [matrices[number] for number in (0, 0, 0, 1, 0)]
    draw = np.random.default_rng(1)
    first, last = torch.tensor(draw.standard_normal((2, 5, 13))).to(dtype)
    alone = [matvec(matrix, vector) for matrix, vector in zip(shared, vectors, strict=True)]
    together = Matrices(shared)
    assert torch.equal(together.times(vectors, first, sign=-1), first - torch.stack(alone))
    assert torch.equal(together.times(vectors, first, last), first + torch.stack(alone) - last)
    assert torch.equal(residual(first[0], shared[0], vectors[0]), first[0] - alone[0])
    assert torch.equal(plus_product(first[0], shared[0], vectors[0], last[0]), first[0] + alone[0] - last[0])
    for wrong in (first[:, :12], first[:4], first.to(torch.bfloat16)):
        with pytest.raises(ValueError, match="vectors"):
            together.times(vectors, wrong)
