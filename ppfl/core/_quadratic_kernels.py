"""The loops of `ppfl.core.matvec` and `ppfl.core.conjugate_gradients`, compiled at first use and kept on the disk.

They are in one file, since Numba compiles a kept function anew when its own file has changed, and not when one has that
it calls. No flag of fast mathematics is set, so that no compiler may add in another order or round a product and a sum at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]
    Function = TypeVar("Function", bound=Callable[..., Any])


def _compile(function: Function) -> Function:
    try:
        compiled: Any = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the folder of this file nor one of the user can be written to
        compiled = njit(nogil=True, error_model="numpy")(function)
    return cast("Function", compiled)


def _cast(context: Any, address: Any, like: Any) -> Any:
    """Return an address as a pointer to numbers of the type of another one."""
    signature = types.CPointer(like)(address, like)  # type: ignore[no-untyped-call]

    def generate(target: Any, builder: Any, of: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], target.get_value_type(of.return_type))

    return signature, generate


_numbers_at: Any = intrinsic(_cast)


@_compile
def _add_columns(columns: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Columns are in one piece: four of them at a time, so that y is read and written once for four."""
    y[:] = 0
    whole = len(x) - len(x) % 4
    for j in range(0, whole, 4):
        a, b, c, d = columns[j], columns[j + 1], columns[j + 2], columns[j + 3]
        for i in range(len(y)):
            y[i] = (((y[i] + a[i] * x[j]) + b[i] * x[j + 1]) + c[i] * x[j + 2]) + d[i] * x[j + 3]
    for j in range(whole, len(x)):
        for i in range(len(y)):
            y[i] += columns[j, i] * x[j]


@_compile
def _sum_rows(rows: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Rows are in one piece: eight sums at a time, since each has to wait for its last addition."""
    y[:] = 0
    whole = len(y) - len(y) % 8
    for i in range(0, whole, 8):
        a, b, c, d, e, f, g, h = y[i], y[i], y[i], y[i], y[i], y[i], y[i], y[i]
        for j in range(len(x)):
            a += rows[i, j] * x[j]
            b += rows[i + 1, j] * x[j]
            c += rows[i + 2, j] * x[j]
            d += rows[i + 3, j] * x[j]
            e += rows[i + 4, j] * x[j]
            f += rows[i + 5, j] * x[j]
            g += rows[i + 6, j] * x[j]
            h += rows[i + 7, j] * x[j]
        y[i], y[i + 1], y[i + 2], y[i + 3] = a, b, c, d
        y[i + 4], y[i + 5], y[i + 6], y[i + 7] = e, f, g, h
    for i in range(whole, len(y)):
        for j in range(len(x)):
            y[i] += rows[i, j] * x[j]


@_compile
def _multiply(address: int, has_columns: bool, x: np.ndarray, y: np.ndarray, zero: float) -> None:
    numbers = _numbers_at(address, zero)
    if has_columns:
        _add_columns(carray(numbers, (len(x), len(y))), x, y)
    else:
        _sum_rows(carray(numbers, (len(y), len(x))), x, y)


@_compile
def product(address: int, has_columns: bool, x: int, y: int, num_rows: int, num_columns: int, zero: float) -> None:
    """y = A x, (m, n) times (n,), all given by their addresses; numbers are of the type of `zero`."""
    vector, out = carray(_numbers_at(x, zero), num_columns), carray(_numbers_at(y, zero), num_rows)
    _multiply(address, has_columns, vector, out, zero)


@_compile
def products(
    addresses: np.ndarray, order: np.ndarray, has_columns: bool, x: int, y: int, num_rows: int, num_columns: int,
    zero: float,
) -> None:  # fmt: skip
    """y_l = A_l x_l, one l after another in the given order; x: (L, n), y: (L, m)."""
    vectors = carray(_numbers_at(x, zero), (len(addresses), num_columns))
    out = carray(_numbers_at(y, zero), (len(addresses), num_rows))
    for lane in order:
        _multiply(addresses[lane], has_columns, vectors[lane], out[lane], zero)


@_compile
def _inner(x: Numbers, y: Numbers, zero: float) -> float:
    """Eight sums at a time, each of every eighth product, since a sum has to wait for its last addition."""
    a, b, c, d, e, f, g, h = zero, zero, zero, zero, zero, zero, zero, zero
    whole = len(x) - len(x) % 8
    for i in range(0, whole, 8):
        a += x[i] * y[i]
        b += x[i + 1] * y[i + 1]
        c += x[i + 2] * y[i + 2]
        d += x[i + 3] * y[i + 3]
        e += x[i + 4] * y[i + 4]
        f += x[i + 5] * y[i + 5]
        g += x[i + 6] * y[i + 6]
        h += x[i + 7] * y[i + 7]
    total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for i in range(whole, len(x)):
        total += x[i] * y[i]
    return total


@_compile
def _ratio(numerator: float, denominator: float, zero: float) -> float:
    return zero if denominator == zero else numerator / denominator


@_compile
def _solve(
    address: int, has_columns: bool, gradient: Numbers, start: Numbers, tuned: Numbers, steps: int, rounding: float,
    zero: float,
) -> None:  # fmt: skip
    residual, product = -gradient, np.empty_like(gradient)
    direction, move = residual.copy(), np.zeros_like(gradient)
    square, steepest = _inner(residual, residual, zero), zero
    start_square, local_square = square, _inner(start, start, zero)
    for _ in range(steps):
        _multiply(address, has_columns, direction, product, zero)
        curvature = _inner(direction, product, zero)
        steepest = max(steepest, _ratio(curvature, _inner(direction, direction, zero), zero))
        solved = square <= rounding * rounding * (start_square + steepest * steepest * local_square)
        step = zero if solved or curvature <= zero else square / curvature
        for i in range(len(move)):
            move[i] += direction[i] * step
            residual[i] -= product[i] * step
        old_square, square = square, _inner(residual, residual, zero)
        factor = _ratio(square, old_square, zero)
        for i in range(len(direction)):
            direction[i] = residual[i] + direction[i] * factor
    for i in range(len(tuned)):
        tuned[i] = start[i] + move[i]


@_compile
def solve(
    addresses: np.ndarray, order: np.ndarray, has_columns: bool, gradients: int, starts: int, tuned: int, length: int,
    steps: int, rounding: float, zero: float,
) -> None:  # fmt: skip
    """tuned_l = start_l + p_l, one l after another in the given order; vectors (L, n) are given by their addresses."""
    shape = (len(addresses), length)
    of_gradients, of_starts = carray(_numbers_at(gradients, zero), shape), carray(_numbers_at(starts, zero), shape)
    of_tuned = carray(_numbers_at(tuned, zero), shape)
    for lane in order:
        _solve(
            addresses[lane], has_columns, of_gradients[lane], of_starts[lane], of_tuned[lane], steps, rounding, zero
        )  # fmt: skip
