"""The loops of `ppfl.core.matvec` and `ppfl.core.conjugate_gradients`, compiled at first use and kept on the disk.

They are in one file, since Numba compiles a kept function anew when its own file has changed, and not when one has that
it calls. The innermost loops are written with registers of eight numbers, since compilers find them for some shapes and
not for others; no operation may be exchanged or joined with another, so that bits are those of the formulas.
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


_INT = ir.IntType(32)


class _Eights:
    """Writes code that works on eight numbers of one type at a time."""

    def __init__(self, target: Any, builder: Any, like: Any) -> None:
        self.builder = builder
        self._number = target.get_value_type(like)
        self._eight, self._size = ir.VectorType(self._number, PANEL), like.bitwidth // 8

    def pointers(self, addresses: Any, count: int) -> list[Any]:
        """Return the members of a tuple of addresses as pointers to numbers."""
        return [self.pointer(self.builder.extract_value(addresses, k)) for k in range(count)]

    def pointer(self, address: Any) -> Any:
        return self.builder.inttoptr(address, self._number.as_pointer())

    def load(self, pointer: Any, index: Any) -> Any:
        return self.builder.load(self._place(pointer, index), align=self._size)

    def store(self, value: Any, pointer: Any, index: Any) -> None:
        self.builder.store(value, self._place(pointer, index), align=self._size)

    def repeated(self, value: Any) -> Any:
        """Return eight times the same number."""
        one = self.builder.insert_element(ir.Constant(self._eight, ir.Undefined), value, ir.Constant(_INT, 0))
        return self.builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_INT, PANEL), [0] * PANEL))

    def zeros(self) -> Any:
        """Return room for eight sums, for which the compiler finds a register."""
        nothing = ir.Constant(self._eight, [0.0] * PANEL)
        return cgutils.alloca_once_value(self.builder, nothing)  # type: ignore[no-untyped-call]

    def add(self, term: Any, sums: Any) -> None:
        self.builder.store(self.builder.fadd(self.builder.load(sums), term), sums)

    def total(self, sums: Any) -> Any:
        """Return the sum of eight sums, which are added in pairs."""
        terms = [self.builder.extract_element(self.builder.load(sums), ir.Constant(_INT, k)) for k in range(PANEL)]
        while len(terms) > 1:
            terms = [self.builder.fadd(a, b) for a, b in zip(terms[::2], terms[1::2], strict=True)]
        return terms[0]

    def _place(self, pointer: Any, index: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(pointer, [index]), self._eight.as_pointer())


def _panels(num_panels: int) -> Any:
    """Return what adds up the columns of some panels for one or several vectors; their sums stay in registers.

    Number i of column j of panel p is at `start` + p · `distance` + j · `stride` + i, in numbers; of the results it
    gives those from `row` + 8 · p on.
    """

    def typed(
        context: Any, start: Any, stride: Any, distance: Any, x: Any, num_columns: Any, y: Any, row: Any, like: Any
    ) -> Any:  # fmt: skip
        def generate(target: Any, builder: Any, of: Any, arguments: Any) -> Any:
            eights = _Eights(target, builder, like)
            start, stride, distance, of_x, num_columns, of_y, row, _ = arguments
            matrix, vectors = eights.pointer(start), eights.pointers(of_x, x.count)
            first = [builder.mul(distance, ir.Constant(distance.type, p)) for p in range(num_panels)]
            rows = [builder.add(row, ir.Constant(row.type, PANEL * p)) for p in range(num_panels)]
            sums = [[eights.zeros() for _ in range(num_panels)] for _ in vectors]
            with cgutils.for_range(builder, num_columns) as loop:
                column = builder.mul(loop.index, stride)
                of_panels = [eights.load(matrix, builder.add(column, place)) for place in first]
                for vector, of_vector in zip(vectors, sums, strict=True):
                    factors = eights.repeated(builder.load(builder.gep(vector, [loop.index])))
                    for of_panel, total in zip(of_panels, of_vector, strict=True):
                        eights.add(builder.fmul(of_panel, factors), total)
            for result, of_vector in zip(eights.pointers(of_y, x.count), sums, strict=True):
                for place, total in zip(rows, of_vector, strict=True):
                    eights.store(builder.load(total), result, place)
            return target.get_dummy_value()

        return types.void(start, stride, distance, x, num_columns, y, row, like), generate

    return intrinsic(typed)


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
    addresses: np.ndarray, order: np.ndarray, x: int, y: int, plus: int, sign: int, minus: int, num_rows: int,
    num_columns: int, num_bytes: int, zero: float,
) -> None:  # fmt: skip
    """y_l = (p_l ± A_l x_l) − q_l, x: (L, n), the others (L, m); p, or both p and q, may be left out: address 0.

    Addresses of matrices are those of lanes in the given order, each in panels.
    """
    start, width, height = 0, num_columns * num_bytes, num_rows * num_bytes
    shape = (len(order), num_rows)
    out, first, last = (
        carray(_numbers_at(y, zero), shape), carray(_numbers_at(plus, zero), shape),
        carray(_numbers_at(minus, zero), shape),
    )  # fmt: skip
    while start < len(order):
        end = _end_of_shared(addresses, start)
        lanes = order[start:end]
        _multiply(addresses[start], lanes, num_rows, num_columns, x, y, width, height, num_bytes, zero)
        for lane in lanes:
            for i in range(num_rows if plus else 0):
                out[lane, i] = first[lane, i] - out[lane, i] if sign < 0 else first[lane, i] + out[lane, i]
            for i in range(num_rows if minus else 0):
                out[lane, i] -= last[lane, i]
        start = end


def _pass(update: Callable[..., Any]) -> Any:
    """Return what goes through vectors eight numbers at a time; it returns the sum of what `update` adds up.

    update(builder, eights, factors): eights of every vector -> (those that are written back, by number; what is added).
    There are eight sums, each of every eighth term.
    """

    def typed(context: Any, places: Any, length: Any, factor: Any) -> Any:
        def generate(target: Any, builder: Any, of: Any, arguments: Any) -> Any:
            eights = _Eights(target, builder, factor)
            addresses, length, value = arguments
            vectors, sums = eights.pointers(addresses, places.count), eights.zeros()
            factors = eights.repeated(value)
            step = [ir.Constant(length.type, 0), length, ir.Constant(length.type, PANEL)]
            with cgutils.for_range_slice(builder, *step) as (index, _):
                written, term = update(builder, [eights.load(vector, index) for vector in vectors], factors)
                for number, new in written.items():
                    eights.store(new, vectors[number], index)
                eights.add(term, sums)
            return eights.total(sums)

        return factor(places, length, factor), generate

    return intrinsic(typed)


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


_inner, _take_step, _turn = _pass(_of_product), _pass(_of_step), _pass(_of_turn)


@compiled
def _ratio(numerator: float, denominator: float, zero: float) -> float:
    return zero if denominator == zero else numerator / denominator


@compiled
def _solve(
    address: int, lanes: np.ndarray, targets: Numbers, starts: Numbers, tuned: Numbers, space: Numbers, steps: int,
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
    of_lanes, apart = np.arange(len(lanes)), width * num_bytes
    for k, lane in enumerate(lanes):
        for i in range(length):
            moves[k, i], locals_[k, i] = zero, starts[lane, i]
        for i in range(length, width):  # where a lane before that diverged has left NaN
            residuals[k, i] = directions[k, i] = moves[k, i] = locals_[k, i] = products_[k, i] = zero
    x, y = locals_.ctypes.data, products_.ctypes.data
    _multiply(address, of_lanes, length, length, x, y, apart, apart, num_bytes, zero)
    for k, lane in enumerate(lanes):
        for i in range(length):
            residuals[k, i] = directions[k, i] = targets[lane, i] - products_[k, i]
        residual, local = residuals[k].ctypes.data, locals_[k].ctypes.data
        squares[k] = _inner((residual, residual), width, zero)
        start_squares[k] = of_directions[k] = squares[k]
        local_squares[k] = _inner((local, local), width, zero)
    for _ in range(steps):
        x, y = directions.ctypes.data, products_.ctypes.data
        _multiply(address, of_lanes, length, length, x, y, apart, apart, num_bytes, zero)
        for k in range(len(lanes)):
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
    addresses: np.ndarray, order: np.ndarray, targets: int, starts: int, tuned: int, length: int, steps: int,
    rounding: float, zero: float,
) -> None:  # fmt: skip
    """tuned_l = start_l + p_l; vectors (L, n) are given by their addresses, matrices as in `products`."""
    shape = (len(order), length)
    of_targets, of_starts = carray(_numbers_at(targets, zero), shape), carray(_numbers_at(starts, zero), shape)
    of_tuned = carray(_numbers_at(tuned, zero), shape)
    space, start = np.empty((5, 8, -(-length // PANEL) * PANEL), of_starts.dtype), 0
    while start < len(order):
        end = _end_of_shared(addresses, start)
        lanes = order[start:end]
        _solve(addresses[start], lanes, of_targets, of_starts, of_tuned, space, steps, rounding, zero)
        start = end
