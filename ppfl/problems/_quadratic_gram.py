"""Quadratic losses as matrices of their own size: the sample size drops out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import ref

import torch

from ppfl.core.matvec import by_columns
from ppfl.core.params import ratio
from ppfl.problems._quadratic_operator import RANK_CUTOFF

if TYPE_CHECKING:
    from collections.abc import Mapping
    from weakref import ReferenceType

    import numpy as np
    from numpy.typing import NDArray

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
    truth: torch.Tensor | None = None
    """θ_m that the client looks for, (d_θ,), where it is known."""


class Grams:
    """Gram forms of one client after the other; those with the very same H, A and B have the very same Q."""

    def __init__(self) -> None:
        # weak, since these are the largest arrays of a start
        self._factors: list[ReferenceType[NDArray[np.float64]]] = []
        self._curvature = torch.empty(0)

    def of(self, matrices: Matrices) -> Gram:
        """Compute the Gram form of H, b, A, B, y."""
        # copies in memory that torch aligned: kernels round differently for other alignments
        H, b, y = (torch.from_numpy(matrices[name]).clone() for name in ("H", "b", "y"))
        both = torch.cat([torch.from_numpy(matrices[name]) for name in ("A", "B")], dim=1)
        d = H.shape[1]
        factors = [matrices[name] for name in ("H", "A", "B")]
        if not self._factors or any(last() is not one for last, one in zip(self._factors, factors, strict=True)):
            self._factors = [ref(one) for one in factors]
            self._curvature = _product_with_itself(both)
            self._curvature[:d, :d] += _product_with_itself(H)
        c = both.T @ y
        c[:d] += H.T @ b
        truth = torch.from_numpy(matrices["truth"]).clone() if "truth" in matrices else None
        return Gram(self._curvature, c, (b @ b + y @ y) / 2, truth)


def _product_with_itself(matrix: torch.Tensor) -> torch.Tensor:
    """XᵀX, symmetric to the bit, for two thirds of the price of a product."""
    # NumPy halves it with syrk of OpenBLAS, whose bits depend on the number of threads
    products = matrix.new_empty(matrix.shape[1], matrix.shape[1])
    for start in range(0, len(products), _BAND):
        band = slice(start, start + _BAND)
        torch.mm(matrix[:, start:].T, matrix[:, band], out=products[start:, band])
    return products.tril() + products.tril(-1).T


def cut(grams: Mapping[int, Gram], is_local: torch.Tensor) -> dict[int, Data]:
    """Cut Q and c of clients into shared and local parts; every part owns its memory, and matrices have their columns
    whole. Clients after one another with the very same Q have the very same matrices."""
    s, l = torch.nonzero(~is_local)[:, 0], torch.nonzero(is_local)[:, 0]  # noqa: E741

    @lru_cache(maxsize=1)
    def curvatures(whole: torch.Tensor) -> Data:
        rows_s, rows_l = whole.index_select(0, s), whole.index_select(0, l)
        local_curvature = rows_l.index_select(1, l)
        return {
            "shared_curvature": by_columns(rows_s.index_select(1, s)),
            "cross": by_columns(rows_s.index_select(1, l)),
            "local_curvature": by_columns(local_curvature),
            "local_inverse": by_columns(pseudo_inverse(local_curvature)),
        }

    return {
        client: {
            **curvatures(gram.curvature),
            "shared_linear": gram.linear.index_select(0, s),
            "local_linear": gram.linear.index_select(0, l),
            "constant": gram.constant,
            **({} if gram.truth is None else {"truth": gram.truth}),
        }
        for client, gram in grams.items()
    }


def gram_of(blocks: Data, is_local: torch.Tensor) -> Gram:
    """Put the parts together again."""
    s, l = torch.nonzero(~is_local)[:, 0], torch.nonzero(is_local)[:, 0]  # noqa: E741
    order = torch.argsort(torch.cat([s, l]))
    upper = torch.cat([blocks["shared_curvature"], blocks["cross"]], dim=1)
    lower = torch.cat([blocks["cross"].T, blocks["local_curvature"]], dim=1)
    curvature = torch.cat([upper, lower]).index_select(0, order).index_select(1, order)
    linear = torch.cat([blocks["shared_linear"], blocks["local_linear"]]).index_select(0, order)
    return Gram(curvature, linear, blocks["constant"], blocks.get("truth"))


def pseudo_inverse(matrix: torch.Tensor) -> torch.Tensor:
    """Return the pseudo-inverse of a positive semi-definite matrix."""
    return inverted(*torch.linalg.eigh(matrix))


def inverted(values: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return the pseudo-inverse of the matrix with these eigenvalues, in ascending order, and eigenvectors."""
    # a slice, not an index: of an empty matrix there is no largest eigenvalue
    kept = values > RANK_CUTOFF * values[-1:]
    inverses = torch.where(kept, ratio(torch.ones_like(values), values), 0.0)
    return torch.mm(vectors * inverses, vectors.T)
