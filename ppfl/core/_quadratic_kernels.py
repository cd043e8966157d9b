"""The loops of `ppfl.core.matvec` and `ppfl.core.conjugate_gradients`, compiled at first use and kept on the disk.

They are in one file, since Numba compiles a kept function anew when its own file has changed, and not when one has that
it calls. No flag of fast mathematics is set, so that no compiler may add in another order or round a product and a sum at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from ppfl.core.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]


def _cast(context: Any, address: Any, like: Any) -> Any:
    """Return an address as a pointer to numbers of the type of another one."""
    signature = types.CPointer(like)(address, like)  # type: ignore[no-untyped-call]

    def generate(target: Any, builder: Any, of: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], target.get_value_type(of.return_type))

    return signature, generate


_numbers_at: Any = intrinsic(_cast)


def _block(num_vectors: int, num_pieces: int) -> Any:
    """Return what adds up columns for some vectors and 8 · `num_pieces` rows, whose sums stay in registers."""

    def typed(
        context: Any, columns: Any, first: Any, num_rows: Any, x: Any, num_columns: Any, y: Any, like: Any
    ) -> Any:  # fmt: skip
        signature = types.void(columns, first, num_rows, x, num_columns, y, like)  # type: ignore[no-untyped-call]

        def generate(target: Any, builder: Any, of: Any, arguments: Any) -> Any:
            number = target.get_value_type(like)
            eight, size = ir.VectorType(number, _EIGHT), like.bitwidth // 8
            columns, first, num_rows, x, num_columns, y, _ = arguments
            columns = builder.inttoptr(columns, number.as_pointer())
            vectors, results = (
                [builder.inttoptr(builder.extract_value(of, k), number.as_pointer()) for k in range(num_vectors)]
                for of in (x, y)
            )

            def piece_at(start: Any, index: Any) -> Any:
                return builder.bitcast(builder.gep(start, [index]), eight.as_pointer())

            def row(piece: int) -> Any:
                return builder.add(first, ir.Constant(first.type, _EIGHT * piece))

            pairs = [(vector, piece) for vector in range(num_vectors) for piece in range(num_pieces)]
            nothing = ir.Constant(eight, [0.0] * _EIGHT)
            sums = {pair: cgutils.alloca_once_value(builder, nothing) for pair in pairs}
            with cgutils.for_range(builder, num_columns) as loop:
                start = builder.mul(loop.index, num_rows)
                column = [
                    builder.load(piece_at(columns, builder.add(start, row(piece))), align=size)
                    for piece in range(num_pieces)
                ]
                for vector in range(num_vectors):
                    factor = builder.load(builder.gep(vectors[vector], [loop.index]))
                    one = builder.insert_element(ir.Constant(eight, ir.Undefined), factor, ir.Constant(_INT, 0))
                    factors = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT, _EIGHT), [0] * _EIGHT))
                    for piece in range(num_pieces):
                        place = sums[vector, piece]
                        builder.store(builder.fadd(builder.load(place), builder.fmul(column[piece], factors)), place)
            for (vector, piece), place in sums.items():
                builder.store(builder.load(place), piece_at(results[vector], row(piece)), align=size)
            return target.get_dummy_value()

        return signature, generate

    return intrinsic(typed)


_EIGHT, _INT = 8, ir.IntType(32)
_eight_of_one, _many_of_one = _block(1, 1), _block(1, 4)
_eight_of_four, _many_of_four = _block(4, 1), _block(4, 2)


@compiled
def _add_columns(columns: int, num_rows: int, x: int, num_columns: int, y: int, zero: float) -> None:
    """y = A x, all given by their addresses: as many rows at a time as registers hold."""
    row = 0
    while row + 32 <= num_rows:
        _many_of_one(columns, row, num_rows, (x,), num_columns, (y,), zero)
        row += 32
    while row < num_rows and num_rows >= 8:
        # the last eight rows, some of them once more: the same numbers come out again
        row = min(row, num_rows - 8)
        _eight_of_one(columns, row, num_rows, (x,), num_columns, (y,), zero)
        row += 8
    if num_rows < 8:
        matrix = carray(_numbers_at(columns, zero), (num_columns, num_rows))
        vector, out = carray(_numbers_at(x, zero), num_columns), carray(_numbers_at(y, zero), num_rows)
        for i in range(num_rows):
            out[i] = zero
            for j in range(num_columns):
                out[i] += matrix[j, i] * vector[j]


@compiled
def _add_columns_for_four(
    columns: int, num_rows: int, x: tuple[int, ...], num_columns: int, y: tuple[int, ...], zero: float
) -> None:
    """Do the same for four vectors, m ≥ 8: a column is read once for all."""
    row = 0
    while row + 16 <= num_rows:
        _many_of_four(columns, row, num_rows, x, num_columns, y, zero)
        row += 16
    while row < num_rows:
        row = min(row, num_rows - 8)
        _eight_of_four(columns, row, num_rows, x, num_columns, y, zero)
        row += 8


@compiled
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


@compiled
def product(address: int, has_columns: bool, x: int, y: int, num_rows: int, num_columns: int, zero: float) -> None:
    """y = A x, (m, n) times (n,), all given by their addresses; numbers are of the type of `zero`."""
    if has_columns:
        _add_columns(address, num_rows, x, num_columns, y, zero)
        return
    rows = carray(_numbers_at(address, zero), (num_rows, num_columns))
    _sum_rows(rows, carray(_numbers_at(x, zero), num_columns), carray(_numbers_at(y, zero), num_rows))


@compiled
def _multiply(
    address: int, lanes: np.ndarray, num_rows: int, num_columns: int, x: int, y: int, num_bytes: int, zero: float
) -> None:
    """y_l = A x_l for the lanes that share a matrix whose columns are in one piece; x: (L, n), y: (L, m)."""
    k, width, height = 0, num_columns * num_bytes, num_rows * num_bytes
    while k + 4 <= len(lanes) and num_rows >= 8:
        a, b, c, d = lanes[k], lanes[k + 1], lanes[k + 2], lanes[k + 3]
        vectors = (x + a * width, x + b * width, x + c * width, x + d * width)
        results = (y + a * height, y + b * height, y + c * height, y + d * height)
        _add_columns_for_four(address, num_rows, vectors, num_columns, results, zero)
        k += 4
    for lane in lanes[k:]:
        _add_columns(address, num_rows, x + lane * width, num_columns, y + lane * height, zero)


@compiled
def _end_of_shared(addresses: np.ndarray, start: int) -> int:
    """Return the end of the lanes from `start` on that share a matrix, at most eight."""
    end = start + 1
    while end < len(addresses) and end < start + 8 and addresses[end] == addresses[start]:
        end += 1
    return end


@compiled
def products(
    addresses: np.ndarray, order: np.ndarray, x: int, y: int, num_rows: int, num_columns: int, num_bytes: int,
    zero: float,
) -> None:  # fmt: skip
    """y_l = A_l x_l, x: (L, n), y: (L, m). Addresses are those of lanes in the given order, columns in one piece."""
    start = 0
    while start < len(order):
        end = _end_of_shared(addresses, start)
        _multiply(addresses[start], order[start:end], num_rows, num_columns, x, y, num_bytes, zero)
        start = end


@compiled
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


@compiled
def _ratio(numerator: float, denominator: float, zero: float) -> float:
    return zero if denominator == zero else numerator / denominator


@compiled
def _solve(
    address: int, lanes: np.ndarray, gradients: Numbers, starts: Numbers, tuned: Numbers, space: Numbers, steps: int,
    rounding: float, zero: float,
) -> None:  # fmt: skip
    """tuned_l = start_l + p_l for the lanes that share a matrix: it stays in the nearest cache; space: (4, 8, n)."""
    length, num_bytes, rows = starts.shape[1], starts.itemsize, np.arange(len(lanes))
    residuals, moves, directions, products_ = space[0], space[1], space[2], space[3]
    # squared lengths: of the residual now and at the start, and of w; and the largest curvature of a direction so far
    numbers = np.empty((4, len(lanes)), starts.dtype)
    squares, start_squares, local_squares, steepest = numbers[0], numbers[1], numbers[2], numbers[3]
    for k, lane in enumerate(lanes):
        for i in range(length):
            residuals[k, i] = directions[k, i] = -gradients[lane, i]
            moves[k, i] = zero
        squares[k] = start_squares[k] = _inner(residuals[k], residuals[k], zero)
        local_squares[k], steepest[k] = _inner(starts[lane], starts[lane], zero), zero
    for _ in range(steps):
        places = directions.ctypes.data, products_.ctypes.data
        _multiply(address, rows, length, length, places[0], places[1], num_bytes, zero)
        for k in rows:
            residual, direction, move, product_ = residuals[k], directions[k], moves[k], products_[k]
            curvature = _inner(direction, product_, zero)
            steepest[k] = max(steepest[k], _ratio(curvature, _inner(direction, direction, zero), zero))
            limit = rounding * rounding * (start_squares[k] + steepest[k] * steepest[k] * local_squares[k])
            step = zero if squares[k] <= limit or curvature <= zero else squares[k] / curvature
            for i in range(length):
                move[i] += direction[i] * step
                residual[i] -= product_[i] * step
            old_square, squares[k] = squares[k], _inner(residual, residual, zero)
            factor = _ratio(squares[k], old_square, zero)
            for i in range(length):
                direction[i] = residual[i] + direction[i] * factor
    for k, lane in enumerate(lanes):
        for i in range(length):
            tuned[lane, i] = starts[lane, i] + moves[k, i]


@compiled
def solve(
    addresses: np.ndarray, order: np.ndarray, gradients: int, starts: int, tuned: int, length: int, steps: int,
    rounding: float, zero: float,
) -> None:  # fmt: skip
    """tuned_l = start_l + p_l; vectors (L, n) are given by their addresses, matrices as in `products`."""
    shape = (len(order), length)
    of_gradients, of_starts = carray(_numbers_at(gradients, zero), shape), carray(_numbers_at(starts, zero), shape)
    of_tuned = carray(_numbers_at(tuned, zero), shape)
    space, start = np.empty((4, 8, length), of_starts.dtype), 0
    while start < len(order):
        end = _end_of_shared(addresses, start)
        lanes = order[start:end]
        _solve(addresses[start], lanes, of_gradients, of_starts, of_tuned, space, steps, rounding, zero)
        start = end
