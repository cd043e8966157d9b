"""λ_max by power iteration and a Cholesky factor against all eigenvalues, also where one of the two must fail."""

from __future__ import annotations

import pytest
import torch

from ppfl.problems import _largest_eigenvalue as module
from ppfl.problems._largest_eigenvalue import largest_eigenvalue

torch.set_num_threads(1)


def with_spectrum(values: list[float]) -> torch.Tensor:
    """Return a symmetric matrix with these eigenvalues and random eigenvectors."""
    columns = torch.randn(len(values), len(values), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vectors = torch.linalg.qr(columns).Q
    matrix = vectors @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ vectors.T
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize(
    "values",
    [
        [100.0, 1.0, 0.5, 0.0],
        [1.0, 1.0 - 1e-9, 0.3],
        [2.0, 2.0, 2.0],
        [5.0],
        [1e150, 1e140],
        [1e-200, 1e-210],
        [0.0] * 3,
    ],
)
def test_it_is_the_largest_of_all(values: list[float]) -> None:
    assert largest_eigenvalue(with_spectrum(values)) == pytest.approx(max(values), rel=2e-12, abs=0.0)


def test_a_direction_that_no_row_sum_has_is_not_missed() -> None:
    difference = torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64)
    matrix = torch.ones(4, 4, dtype=torch.float64) + 4 * torch.outer(difference, difference)
    assert largest_eigenvalue(matrix) == pytest.approx(8.0, rel=1e-12)


def test_of_no_rows_it_is_zero() -> None:
    assert largest_eigenvalue(torch.zeros(0, 0, dtype=torch.float64)) == 0.0


def test_all_eigenvalues_are_left_alone_where_the_largest_stands_out(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = with_spectrum([100.0, 1.0, 0.5, 0.25])
    monkeypatch.setattr(module.torch.linalg, "eigvalsh", None)
    assert largest_eigenvalue(matrix) == pytest.approx(100.0, rel=1e-12)
