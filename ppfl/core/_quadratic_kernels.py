"""The loops of `ppfl.core.matvec` and `ppfl.core.conjugate_gradients`, compiled at first use and kept on the disk.

They are in one file, since Numba compiles a kept function anew when its own file has changed, and not when one has that
it calls. No flag of fast mathematics is set, so that no compiler may add in another order or round a product and a sum at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from ppfl.core.compiled import compiled
from ppfl.core.matvec import PANEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]


def _cast(context: Any, address: Any, like: Any) -> Any:
    """Return an address as a pointer to numbers of the type of another one."""
    signature = types.CPointer(like)(address, like)  # type: ignore[no-untyped-call]

    def generate(target: Any, builder: Any, of: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], target.get_value_type(of.return_type))

    return signature, generate


_numbers_at: Any = intrinsic(_cast)


def _panels(num_panels: int) -> Any:
    """Return what adds up the columns of some panels for one or several vectors; their sums stay in registers.

    Number i of column j of panel p is at `start` + p · `distance` + j · `stride` + i, in numbers; of the results it
    gives those from `row` + 8 · p on.
    """

    def typed(
        context: Any, start: Any, stride: Any, distance: Any, x: Any, num_columns: Any, y: Any, row: Any, like: Any
    ) -> Any:  # fmt: skip
        signature = types.void(start, stride, distance, x, num_columns, y, row, like)

        def generate(target: Any, builder: Any, of: Any, arguments: Any) -> Any:
            number = target.get_value_type(like)
            eight, size = ir.VectorType(number, PANEL), like.bitwidth // 8
            start, stride, distance, x_places, num_columns, y_places, row, _ = arguments

            def numbers_at(address: Any) -> Any:
                return builder.inttoptr(address, number.as_pointer())

            def eight_at(pointer: Any, index: Any) -> Any:
                return builder.bitcast(builder.gep(pointer, [index]), eight.as_pointer())

            def times(factor: int, value: Any) -> Any:
                return builder.mul(ir.Constant(value.type, factor), value)

            matrix = numbers_at(start)
            vectors, results = (
                [numbers_at(builder.extract_value(places, k)) for k in range(x.count)]
                for places in (x_places, y_places)
            )
            sums = {(k, p): _space(builder, eight) for k in range(x.count) for p in range(num_panels)}
            with cgutils.for_range(builder, num_columns) as loop:
                column = builder.mul(loop.index, stride)
                of_panels = [
                    builder.load(eight_at(matrix, builder.add(column, times(p, distance))), align=size)
                    for p in range(num_panels)
                ]
                for k, vector in enumerate(vectors):
                    factors = _repeated(builder, builder.load(builder.gep(vector, [loop.index])), eight)
                    for p, of_panel in enumerate(of_panels):
                        total = builder.fadd(builder.load(sums[k, p]), builder.fmul(of_panel, factors))
                        builder.store(total, sums[k, p])
            for (k, p), total in sums.items():
                place = eight_at(results[k], builder.add(row, ir.Constant(row.type, PANEL * p)))
                builder.store(builder.load(total), place, align=size)
            return target.get_dummy_value()

        return signature, generate

    return intrinsic(typed)


_INT = ir.IntType(32)
_one_panel, _two_panels, _four_panels = _panels(1), _panels(2), _panels(4)


@compiled
def _add_up(
    start: int, stride: int, distance: int, last: int, num_rows: int, x: tuple[int, ...], num_columns: int,
    y: tuple[int, ...], num_bytes: int, zero: float,
) -> None:  # fmt: skip
    """y_k = A x_k, m ≥ 8, all given by their addresses; `last`: of the panel of the last eight rows.

    As many panels at a time as give additions that need not wait for each other: eight where registers allow.
    """
    panel, whole = 0, num_rows // PANEL
    while panel < whole:
        here, row = start + panel * distance * num_bytes, PANEL * panel
        if len(x) == 1 and panel + 4 <= whole:
            _four_panels(here, stride, distance, x, num_columns, y, row, zero)
            panel += 4
        elif panel + 2 <= whole:
            _two_panels(here, stride, distance, x, num_columns, y, row, zero)
            panel += 2
        else:
            _one_panel(here, stride, distance, x, num_columns, y, row, zero)
            panel += 1
    if num_rows % PANEL:  # some of its rows once more: the same numbers come out again
        _one_panel(last, stride, distance, x, num_columns, y, num_rows - PANEL, zero)


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
def _few_rows(columns: Numbers, x: Numbers, y: Numbers) -> None:
    y[:] = 0
    for j in range(len(x)):
        for i in range(len(y)):
            y[i] += columns[j, i] * x[j]


@compiled
def product(
    address: int, has_columns: bool, x: int, y: int, num_rows: int, num_columns: int, num_bytes: int, zero: float
) -> None:
    """y = A x, (m, n) times (n,), all given by their addresses; numbers are of the type of `zero`."""
    vector, out = carray(_numbers_at(x, zero), num_columns), carray(_numbers_at(y, zero), num_rows)
    if not has_columns:
        _sum_rows(carray(_numbers_at(address, zero), (num_rows, num_columns)), vector, out)
    elif num_rows < PANEL:
        _few_rows(carray(_numbers_at(address, zero), (num_columns, num_rows)), vector, out)
    else:
        last = address + (num_rows - PANEL) * num_bytes
        _add_up(address, num_rows, PANEL, last, num_rows, (x,), num_columns, (y,), num_bytes, zero)


@compiled
def _multiply(
    address: int, lanes: np.ndarray, num_rows: int, num_columns: int, x: int, y: int, width: int, height: int,
    num_bytes: int, zero: float,
) -> None:  # fmt: skip
    """y_l = A x_l for the lanes that share a matrix in panels; vectors are `width` and `height` bytes apart."""
    if num_rows < PANEL:
        columns = carray(_numbers_at(address, zero), (num_columns, num_rows))
        for lane in lanes:
            vector, out = _numbers_at(x + lane * width, zero), _numbers_at(y + lane * height, zero)
            _few_rows(columns, carray(vector, num_columns), carray(out, num_rows))
        return
    distance, k, end = PANEL * num_columns, 0, len(lanes)
    last = address + num_rows // PANEL * distance * num_bytes
    while k + 4 <= end:
        a, b, c, d = lanes[k], lanes[k + 1], lanes[k + 2], lanes[k + 3]
        of_four = (x + a * width, x + b * width, x + c * width, x + d * width)
        results = (y + a * height, y + b * height, y + c * height, y + d * height)
        _add_up(address, PANEL, distance, last, num_rows, of_four, num_columns, results, num_bytes, zero)
        k += 4
    if k + 2 <= end:
        a, b = lanes[k], lanes[k + 1]
        of_two, both = (x + a * width, x + b * width), (y + a * height, y + b * height)
        _add_up(address, PANEL, distance, last, num_rows, of_two, num_columns, both, num_bytes, zero)
        k += 2
    if k < end:
        of_one, result = (x + lanes[k] * width,), (y + lanes[k] * height,)
        _add_up(address, PANEL, distance, last, num_rows, of_one, num_columns, result, num_bytes, zero)


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
    """y_l = A_l x_l, x: (L, n), y: (L, m). Addresses are those of lanes in the given order, matrices in panels."""
    start, width, height = 0, num_columns * num_bytes, num_rows * num_bytes
    while start < len(order):
        end = _end_of_shared(addresses, start)
        lanes = order[start:end]
        _multiply(addresses[start], lanes, num_rows, num_columns, x, y, width, height, num_bytes, zero)
        start = end


def _eights(update: Callable[..., Any]) -> Any:
    """Return what goes through vectors eight numbers at a time; it returns the sum of what `update` adds up.

    update(builder, eights, factor): eights of every vector -> (those that are written back, by number; what is added).
    Eight sums stay in a register, each of every eighth term, and are added in pairs in the end.
    """

    def typed(context: Any, places: Any, length: Any, factor: Any) -> Any:
        signature = factor(places, length, factor)

        def generate(target: Any, builder: Any, of: Any, arguments: Any) -> Any:
            number = target.get_value_type(factor)
            eight, size = ir.VectorType(number, PANEL), factor.bitwidth // 8
            addresses, length, value = arguments
            vectors = [
                builder.inttoptr(builder.extract_value(addresses, k), number.as_pointer()) for k in range(places.count)
            ]
            sums = _space(builder, eight)
            factors = _repeated(builder, value, eight)
            with cgutils.for_range_slice(
                builder, ir.Constant(length.type, 0), length, ir.Constant(length.type, PANEL)
            ) as (index, _):
                pointers = [
                    builder.bitcast(builder.gep(vector, [index]), eight.as_pointer()) for vector in vectors
                ]  # fmt: skip
                written, term = update(builder, [builder.load(one, align=size) for one in pointers], factors)
                for k, new in written.items():
                    builder.store(new, pointers[k], align=size)
                builder.store(builder.fadd(builder.load(sums), term), sums)
            terms = [builder.extract_element(builder.load(sums), ir.Constant(_INT, k)) for k in range(PANEL)]
            while len(terms) > 1:
                terms = [builder.fadd(a, b) for a, b in zip(terms[::2], terms[1::2], strict=True)]
            return terms[0]

        return signature, generate

    return intrinsic(typed)


def _space(builder: Any, eight: Any) -> Any:
    """Return room for eight zeros, which the compiler finds a register for."""
    nothing = ir.Constant(eight, [0.0] * PANEL)
    return cgutils.alloca_once_value(builder, nothing)  # type: ignore[no-untyped-call]


def _repeated(builder: Any, value: Any, eight: Any) -> Any:
    one = builder.insert_element(ir.Constant(eight, ir.Undefined), value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT, PANEL), [0] * PANEL))


def _of_product(builder: Any, eights: Any, factors: Any) -> Any:
    x, y = eights
    return {}, builder.fmul(x, y)


def _of_step(builder: Any, eights: Any, factors: Any) -> Any:
    """move += direction · step; residual −= product · step; adds up the squares of the residual."""
    move, direction, residual, product = eights
    move = builder.fadd(move, builder.fmul(direction, factors))
    residual = builder.fsub(residual, builder.fmul(product, factors))
    return {0: move, 2: residual}, builder.fmul(residual, residual)


def _of_turn(builder: Any, eights: Any, factors: Any) -> Any:
    """direction = residual + direction · factor; adds up its squares."""
    direction, residual = eights
    direction = builder.fadd(residual, builder.fmul(direction, factors))
    return {0: direction}, builder.fmul(direction, direction)


_inner, _take_step, _turn = _eights(_of_product), _eights(_of_step), _eights(_of_turn)


@compiled
def _ratio(numerator: float, denominator: float, zero: float) -> float:
    return zero if denominator == zero else numerator / denominator


@compiled
def _solve(
    address: int, lanes: np.ndarray, gradients: Numbers, starts: Numbers, tuned: Numbers, space: Numbers, steps: int,
    rounding: float, zero: float,
) -> None:  # fmt: skip
    """tuned_l = start_l + p_l for the lanes that share a matrix: it stays in the nearest cache.

    space: (5, 8, n'), n' a multiple of eight; what is behind n is 0 and changes no sum.
    """
    length, width, num_bytes = starts.shape[1], space.shape[2], space.itemsize
    moves, residuals, directions, products_, locals_ = space[0], space[1], space[2], space[3], space[4]
    # squared lengths: of the residual now and at the start, of w, of the direction; the largest curvature so far
    numbers = np.zeros((5, len(lanes)), space.dtype)
    squares, start_squares, local_squares = numbers[0], numbers[1], numbers[2]
    of_directions, steepest = numbers[3], numbers[4]
    for k, lane in enumerate(lanes):
        for i in range(length):
            residuals[k, i] = directions[k, i] = -gradients[lane, i]
            moves[k, i], locals_[k, i] = zero, starts[lane, i]
        for i in range(length, width):  # where a lane before that diverged has left NaN
            residuals[k, i] = directions[k, i] = moves[k, i] = locals_[k, i] = products_[k, i] = zero
        residual, local = residuals[k].ctypes.data, locals_[k].ctypes.data
        squares[k] = _inner((residual, residual), width, zero)
        start_squares[k] = of_directions[k] = squares[k]
        local_squares[k] = _inner((local, local), width, zero)
    rows = np.arange(len(lanes))
    for _ in range(steps):
        places = directions.ctypes.data, products_.ctypes.data
        _multiply(
            address, rows, length, length, places[0], places[1], width * num_bytes, width * num_bytes, num_bytes, zero
        )
        for k in rows:
            direction, product_ = directions[k].ctypes.data, products_[k].ctypes.data
            residual, move = residuals[k].ctypes.data, moves[k].ctypes.data
            curvature = _inner((direction, product_), width, zero)
            steepest[k] = max(steepest[k], _ratio(curvature, of_directions[k], zero))
            limit = rounding * rounding * (start_squares[k] + steepest[k] * steepest[k] * local_squares[k])
            step = zero if squares[k] <= limit or curvature <= zero else squares[k] / curvature
            old_square = squares[k]
            squares[k] = _take_step((move, direction, residual, product_), width, step)
            of_directions[k] = _turn((direction, residual), width, _ratio(squares[k], old_square, zero))
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
    space, start = np.empty((5, 8, -(-length // PANEL) * PANEL), of_starts.dtype), 0
    while start < len(order):
        end = _end_of_shared(addresses, start)
        lanes = order[start:end]
        _solve(addresses[start], lanes, of_gradients, of_starts, of_tuned, space, steps, rounding, zero)
        start = end
