"""Products of small matrices with vectors, many in one call, whose bits depend on their numbers alone.

y = x_1 a_1 + x_2 a_2 + …, the columns a_j added one after another from 0, every product rounded before it is added. A
batch of products, their memory layout and the CPU change no bit; those of a BLAS depend on all three. And it is fast:
what a call costs is paid once for all products, and a column is read once, in order.

Compiled by Numba where that is installed; without it the same bits come more slowly.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

from ppfl.core.transforms import is_transformed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


PANEL = 8
"""Rows that are added up together: a register holds as many numbers in float64 with AVX-512."""


class StandIn(Protocol):
    """Takes the place of a matrix, as lanes do."""

    def matvec(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return what stands in for the product with a vector."""

    def plus_product(
        self, first: torch.Tensor, vectors: torch.Tensor, minus: torch.Tensor | None, sign: int
    ) -> torch.Tensor:
        """Return what stands in for first ± A x − minus."""

    def solve(self, target: torch.Tensor, start: torch.Tensor, steps: int) -> torch.Tensor:
        """Return what stands in for `ppfl.core.conjugate_gradients.solve`."""


def matvec(matrix: torch.Tensor | StandIn, vector: torch.Tensor) -> torch.Tensor:
    """A x, (m, n) times (n,).

    By torch on other devices, in other number types and where derivatives are taken; and what does not fit together is
    refused as torch does.
    """
    if not isinstance(matrix, torch.Tensor):
        return matrix.matvec(vector)
    if vector.dtype != matrix.dtype or vector.requires_grad or not is_served(matrix):
        return matrix @ vector
    if matrix.ndim != 2 or vector.shape != matrix.shape[1:]:  # addresses would be read beyond the end
        return torch.mv(matrix, vector)
    # every call counts here: what is asked for first takes a tenth of a microsecond, and `T` or `numpy` take one each
    num_rows, num_columns = matrix.shape
    strides, loops = matrix.stride(), compiled_loops()
    has_columns = strides == (1, num_rows)
    if loops is None or not (has_columns or strides == (num_columns, 1)) or not vector.is_contiguous():
        return Matrices([matrix]).times(vector.unsqueeze(0))[0]
    product = vector.new_empty(num_rows)
    places = vector.data_ptr(), product.data_ptr()
    loops.product(
        matrix.data_ptr(), has_columns, *places, num_rows, num_columns, vector.element_size(), zero_of(vector.dtype)
    )
    return product


def residual(target: torch.Tensor, matrix: torch.Tensor | StandIn, vector: torch.Tensor) -> torch.Tensor:
    """t − A x; of lanes without a second way through memory."""
    if not isinstance(matrix, torch.Tensor):
        return matrix.plus_product(target, vector, None, -1)
    return target - matvec(matrix, vector)


def plus_product(
    first: torch.Tensor, matrix: torch.Tensor | StandIn, vector: torch.Tensor, minus: torch.Tensor
) -> torch.Tensor:
    """(p + A x) − q, in this order; of lanes without a second way through memory."""
    if not isinstance(matrix, torch.Tensor):
        return matrix.plus_product(first, vector, minus, 1)
    return first + matvec(matrix, vector) - minus


def by_columns(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix with its columns in one piece of memory each, which makes products fast and changes no bit."""
    return matrix.T.contiguous().T


class Matrices:
    """L matrices of one shape on the CPU, each copied once into panels of eight rows whose columns follow one another;
    the last panel is that of the last eight rows. What is read comes in the order in which it lies in memory."""

    def __init__(self, matrices: Sequence[torch.Tensor]) -> None:
        if any(one.shape != matrices[0].shape or one.dtype != matrices[0].dtype or not one.is_cpu for one in matrices):
            raise ValueError("matrices of different shapes, number types or devices")
        self.matrices = list(matrices)
        self._panels = {_place(matrix): matrix for matrix in matrices}
        self._panels = {place: in_panels(matrix) for place, matrix in self._panels.items()}
        addresses = np.array([self._panels[_place(matrix)].data_ptr() for matrix in matrices])
        # what several lanes share is read once for all; the order of products changes none of them
        self.order = np.argsort(addresses, kind="stable")
        self.addresses = addresses[self.order]

    def times(
        self,
        vectors: torch.Tensor,
        plus: torch.Tensor | None = None,
        minus: torch.Tensor | None = None,
        sign: int = 1,
    ) -> torch.Tensor:
        """Return the product of every matrix with its vector, (L, n) -> (L, m), or with more (p ± A x) − q, (L, m).

        Raises ValueError for other shapes and number types.
        """
        num_rows, num_columns = self.matrices[0].shape
        self._check(vectors, num_columns)
        for term in (plus, minus):
            if term is not None:
                self._check(term, num_rows)
        vectors = vectors.contiguous()
        terms = [None if term is None else term.contiguous() for term in (plus, minus)]
        products, loops = vectors.new_empty(len(self.matrices), num_rows), compiled_loops()
        if loops is None:
            self._plainly(vectors.numpy(), products.numpy())
            products = products if plus is None else plus - products if sign < 0 else plus + products
            return products if minus is None else products - minus
        first, last = (0 if term is None else term.data_ptr() for term in terms)
        sizes = num_rows, num_columns, vectors.element_size(), zero_of(vectors.dtype)
        loops.products(
            self.addresses, self.order, vectors.data_ptr(), products.data_ptr(), first, sign, last, *sizes
        )  # fmt: skip
        return products

    def _check(self, vectors: torch.Tensor, length: int) -> None:
        # addresses would be read beyond the end
        if vectors.shape != (len(self.matrices), length) or vectors.dtype != self.matrices[0].dtype:
            shape, kind = tuple(self.matrices[0].shape), f"{tuple(vectors.shape)} {vectors.dtype}"
            raise ValueError(f"vectors {kind} for {len(self.matrices)} matrices {shape} {self.matrices[0].dtype}")

    def _plainly(self, vectors: np.ndarray, products: np.ndarray) -> None:
        products[:] = 0.0
        with np.errstate(all="ignore"):  # as compiled loops do: a run that diverges says so by its numbers
            for matrix, vector, product in zip(self.matrices, vectors, products, strict=True):
                for column, factor in zip(matrix.T.numpy(), vector, strict=True):
                    product += column * factor


def _place(matrix: torch.Tensor) -> tuple[int, ...]:
    return (matrix.data_ptr(), *matrix.stride())


def in_panels(matrix: torch.Tensor) -> torch.Tensor:
    """Return panels of eight rows, (⌈m/8⌉, n, 8), the last one of the last eight; the columns where there are fewer."""
    num_rows, num_columns = matrix.shape
    if num_rows < PANEL:
        return matrix.T.contiguous()
    whole = num_rows // PANEL * PANEL
    panels = matrix[:whole].reshape(whole // PANEL, PANEL, num_columns).transpose(1, 2)
    if whole == num_rows:
        return panels.contiguous()
    return torch.cat([panels, matrix[-PANEL:].T.unsqueeze(0)])


def is_served(matrix: torch.Tensor) -> bool:
    """Say whether compiled loops, or what stands in for them, take a matrix."""
    return matrix.is_cpu and matrix.dtype in _zeros() and not matrix.requires_grad and not is_transformed()


def zero_of(dtype: torch.dtype) -> np.floating[Any]:
    """Return 0 in a number type that is compiled for; the compiler tells it by that."""
    return _zeros()[dtype]


@cache
def _zeros() -> dict[torch.dtype, np.floating[Any]]:
    # no constant: to import this file must not load torch
    return {torch.float64: np.float64(0), torch.float32: np.float32(0)}


class CompiledLoops(NamedTuple):
    """See `ppfl.core._quadratic_kernels`."""

    product: Callable[..., None]
    products: Callable[..., None]
    solve: Callable[..., None]


@cache
def compiled_loops() -> CompiledLoops | None:
    """Return the compiled loops; None without Numba."""
    try:
        # loaded by those who multiply: it takes a third of a second
        from ppfl.core._quadratic_kernels import product, products, solve
    except ImportError:
        return None
    return CompiledLoops(product, products, solve)
