"""The loops of `ppfl.core.matvec`, compiled at first use and kept on the disk for later processes.

No flag of fast mathematics is set, so that no compiler may add in another order or round a product and a sum at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    Function = TypeVar("Function", bound=Callable[..., None])


def _compile(function: Function) -> Function:
    try:
        compiled: Any = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the folder of this file nor one of the user can be written to
        compiled = njit(nogil=True)(function)
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
