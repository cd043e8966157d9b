"""Quadratic losses as matrices of their own size: the sample size drops out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppfl.core.matvec import by_columns
from ppfl.core.params import ratio
from ppfl.problems._quadratic_operator import RANK_CUTOFF

if TYPE_CHECKING:
    from ppfl.core.types import Data
    from ppfl.problems._quadratic_generators import Matrices


_BAND = 48
"""Columns of one product: a multiple of the 12 that a kernel of MKL takes at once; others are up to a half slower."""


@dataclass(frozen=True)
class Gram:
    """f_m(x) = ½ xᵀQx − cᵀx + ½(‖b‖² + ‖y‖²), x = (θ, w), of one client in float64 on the CPU."""

    curvature: torch.Tensor
    """Q = [[HᵀH + AᵀA, AᵀB], [BᵀA, BᵀB]]."""
    linear: torch.Tensor
    """c = (Hᵀb + Aᵀy, Bᵀy)."""
    constant: torch.Tensor
    """½(‖b‖² + ‖y‖²), a scalar."""

    @classmethod
    def of(cls, matrices: Matrices) -> Gram:
        """Compute the Gram form of H, b, A, B, y."""
        H, b, A, B, y = (torch.from_numpy(matrices[name]) for name in ("H", "b", "A", "B", "y"))
        d = A.shape[1]
        # joined in memory that torch aligned: kernels round differently for other alignments
        of_server = _product_with_itself(torch.cat([H, b[:, None]], dim=1))
        of_client = _product_with_itself(torch.cat([A, B, y[:, None]], dim=1))
        Q, c = of_client[:-1, :-1].clone(), of_client[:-1, -1].clone()
        Q[:d, :d] += of_server[:-1, :-1]
        c[:d] += of_server[:-1, -1]
        return cls(Q, c, (of_server[-1, -1] + of_client[-1, -1]) / 2)


def _product_with_itself(matrix: torch.Tensor) -> torch.Tensor:
    """XᵀX, symmetric to the bit, for two thirds of the price of a product."""
    # NumPy halves it with syrk of OpenBLAS, whose bits depend on the number of threads
    products = matrix.new_empty(matrix.shape[1], matrix.shape[1])
    for start in range(0, len(products), _BAND):
        band = slice(start, start + _BAND)
        torch.mm(matrix[:, start:].T, matrix[:, band], out=products[start:, band])
    return products.tril() + products.tril(-1).T


def blocks_of(gram: Gram, is_local: torch.Tensor) -> Data:
    """Cut Q and c into shared and local parts; every part owns its memory, and matrices have their columns whole."""
    s, l = torch.nonzero(~is_local)[:, 0], torch.nonzero(is_local)[:, 0]  # noqa: E741
    rows_s, rows_l = gram.curvature.index_select(0, s), gram.curvature.index_select(0, l)
    local_curvature = rows_l.index_select(1, l)
    return {
        "shared_curvature": by_columns(rows_s.index_select(1, s)),
        "cross": by_columns(rows_s.index_select(1, l)),
        "local_curvature": by_columns(local_curvature),
        "local_inverse": by_columns(pseudo_inverse(local_curvature)),
        "shared_linear": gram.linear.index_select(0, s),
        "local_linear": gram.linear.index_select(0, l),
        "constant": gram.constant,
    }


def gram_of(blocks: Data, is_local: torch.Tensor) -> Gram:
    """Put the parts together again."""
    s, l = torch.nonzero(~is_local)[:, 0], torch.nonzero(is_local)[:, 0]  # noqa: E741
    order = torch.argsort(torch.cat([s, l]))
    upper = torch.cat([blocks["shared_curvature"], blocks["cross"]], dim=1)
    lower = torch.cat([blocks["cross"].T, blocks["local_curvature"]], dim=1)
    curvature = torch.cat([upper, lower]).index_select(0, order).index_select(1, order)
    linear = torch.cat([blocks["shared_linear"], blocks["local_linear"]]).index_select(0, order)
    return Gram(curvature, linear, blocks["constant"])


def pseudo_inverse(matrix: torch.Tensor) -> torch.Tensor:
    """Return the pseudo-inverse of a positive semi-definite matrix."""
    return inverted(*torch.linalg.eigh(matrix))


def inverted(values: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return the pseudo-inverse of the matrix with these eigenvalues, in ascending order, and eigenvectors."""
    # a slice, not an index: of an empty matrix there is no largest eigenvalue
    kept = values > RANK_CUTOFF * values[-1:]
    inverses = torch.where(kept, ratio(torch.ones_like(values), values), 0.0)
    return torch.mm(vectors * inverses, vectors.T)
