"""Conjugate gradients on small constant matrices, many systems in one call, whose bits depend on their numbers alone.

Products are those of `ppfl.core.matvec`. An inner product is eight sums of every eighth term, these added in pairs: one
fixed order, that of no BLAS. Compiled by Numba where that is installed; without it the same bits come more slowly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppfl.core.matvec import PANEL, Matrices, compiled_loops, is_served, zero_of

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from numpy.typing import NDArray

    from ppfl.core.matvec import StandIn

    _Number: TypeAlias = np.floating[Any]
    _Numbers: TypeAlias = NDArray[np.floating[Any]]


def can_solve(matrix: torch.Tensor | StandIn) -> bool:
    """Say whether `solve` serves a matrix: on the CPU, in float32 or float64, where no derivatives are taken."""
    return not isinstance(matrix, torch.Tensor) or is_served(matrix)


def solve(matrix: torch.Tensor | StandIn, target: torch.Tensor, start: torch.Tensor, steps: int) -> torch.Tensor:
    """w + p, p from `steps` steps on A p = t − A w that begin at 0, (n, n), (n,), (n,) -> (n,).

    Source: Hestenes & Stiefel 1952. A residual no larger than its own rounding, of which A and w are parts, ends the
    steps, and so does a direction of no positive curvature.
    """
    if not isinstance(matrix, torch.Tensor):
        return matrix.solve(target, start, steps)
    return solve_all(Matrices([matrix]), target.unsqueeze(0), start.unsqueeze(0), steps)[0]


def solve_all(matrices: Matrices, targets: torch.Tensor, starts: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the same for L systems, targets and starts (L, n). Raises ValueError for other shapes and number types."""
    first = matrices.matrices[0]
    num_rows, num_columns = first.shape
    kind = (len(matrices.matrices), num_columns), first.dtype
    # addresses would be read beyond the end, or as numbers of another type
    if num_rows != num_columns or any((tuple(x.shape), x.dtype) != kind for x in (targets, starts)):
        given = " and ".join(f"{tuple(x.shape)} {x.dtype}" for x in (targets, starts))
        raise ValueError(f"{kind[0][0]} systems {num_rows}×{num_columns} {first.dtype}, vectors {given}")
    targets, starts = targets.contiguous(), starts.contiguous()
    tuned, zero = torch.empty_like(starts), zero_of(starts.dtype)
    rounding = type(zero)(np.finfo(type(zero)).eps * math.sqrt(num_columns))
    loops = compiled_loops()
    if loops is None:
        with np.errstate(all="ignore"):  # as compiled loops do: a run that diverges says so by its numbers
            for lane, matrix in enumerate(matrices.matrices):
                tuned[lane] = torch.from_numpy(
                    _solve_plainly(matrix, targets[lane].numpy(), starts[lane].numpy(), steps, rounding, zero)
                )
        return tuned
    places = targets.data_ptr(), starts.data_ptr(), tuned.data_ptr()
    loops.solve(matrices.addresses, matrices.order, *places, num_columns, steps, rounding, zero)
    return tuned


def _solve_plainly(
    matrix: torch.Tensor, target: _Numbers, start: _Numbers, steps: int, rounding: _Number, zero: _Number
) -> _Numbers:
    """Do what the compiled loop does, operation by operation; vectors are filled up with zeros as there."""
    length, matrices = len(target), Matrices([matrix])

    def times(vector: _Numbers) -> _Numbers:
        return _filled_up(matrices.times(torch.from_numpy(vector[None, :length]))[0].numpy())

    local = _filled_up(start)
    residual = _filled_up(target) - times(local)
    direction, move, steepest = residual, np.zeros_like(residual), zero
    square = start_square = of_direction = _inner(residual, residual)
    local_square = _inner(local, local)
    for _ in range(steps):
        product = times(direction)
        curvature = _inner(direction, product)
        steepest = max(steepest, _ratio(curvature, of_direction))
        limit = rounding * rounding * (start_square + steepest * steepest * local_square)
        step = zero if square <= limit or curvature <= zero else square / curvature
        move = move + direction * step
        residual = residual - product * step
        old_square, square = square, _inner(residual, residual)
        direction = residual + direction * _ratio(square, old_square)
        of_direction = _inner(direction, direction)
    return start + move[:length]


def _filled_up(vector: _Numbers) -> _Numbers:
    return np.concatenate([vector, np.zeros(-len(vector) % PANEL, vector.dtype)])


def _inner(x: _Numbers, y: _Numbers) -> _Number:
    sums = np.zeros(PANEL, x.dtype)
    for row in (x * y).reshape(-1, PANEL):
        sums = sums + row
    while len(sums) > 1:
        sums = sums[::2] + sums[1::2]
    total: _Number = sums[0]
    return total


def _ratio(numerator: _Number, denominator: _Number) -> _Number:
    return numerator * 0 if denominator == 0 else numerator / denominator
