"""Rows of a client matrix as they came, cut into blocks of columns, and what passes over these blocks find."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ppfl.core import devices
from ppfl.rows.gram import first_centre, well_centred
from ppfl.rows.products import copied, products_around, squared_distances_to, squared_norms_by_pieces, sum_by_eights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ppfl.core.communicator import Communicator

BLOCK_COLUMNS = 8192
_ON_DEVICES = 8
"""Blocks of a CPU that are one on a device, whose time goes with the number of blocks."""
_TOGETHER = 16
"""Blocks that are read at once where each is reduced to a few numbers."""
LARGEST = 1e140
"""Rows with an entry beyond count as not finite: their squares would not be."""
_SURELY_FINITE = 1e200
"""Squares of entries up to which those of x_c and x_i − x_c prove that no entry of x_i is beyond LARGEST."""


class NotFiniteRowsError(Exception):
    """Rows with NaN or inf were looked at, which are not to be."""


def block_columns(device: torch.device) -> int:
    """Return the width of a block, a multiple of BLOCK_COLUMNS."""
    return BLOCK_COLUMNS if devices.is_host(device) else _ON_DEVICES * BLOCK_COLUMNS


def column_bounds(dimension: int, num_ranks: int, width: int) -> list[int]:
    """Return P + 1 bounds: rank r owns columns bounds[r]:bounds[r + 1], whole blocks of a width, spread evenly."""
    # whole blocks: what a kernel sees, and with it how it rounds, is the same on any number of ranks
    num_blocks = -(-dimension // width)
    return [min(num_blocks * rank // num_ranks * width, dimension) for rank in range(num_ranks)] + [dimension]


class ClientRows:
    """Some rows of a matrix of which this rank holds the columns (n, D_r); what is costly to find is kept."""

    def __init__(
        self, communicator: Communicator, columns: torch.Tensor, chosen: torch.Tensor | None, dimension: int
    ) -> None:
        self.communicator = communicator
        self.columns = columns
        self.chosen = chosen
        self.number = columns.shape[0] if chosen is None else len(chosen)
        self._is_quick = columns.dtype == torch.float32 and devices.is_host(columns.device)
        """Whether sums may begin in float32."""
        self.dimension = dimension
        self.width = block_columns(columns.device)
        """Columns of a block."""
        self._first_column = column_bounds(dimension, communicator.size, self.width)[communicator.rank]
        self.refuses = False
        """Whether to look at anything of rows that are not all finite raises NotFiniteRowsError."""
        # not functools.cached_property: on Python 3.11 it holds one lock for all instances, also for ranks as threads
        self._finite: torch.Tensor | None = None
        self._squared_norms: torch.Tensor | None = None
        self._norms: torch.Tensor | None = None
        self._first: tuple[torch.Tensor, int | None] | None = None
        self._factor: tuple[torch.Tensor, int | None] | None = None
        self._products: torch.Tensor | None = None

    def number_of_block(self, start: int) -> int:
        """Return the number of the block of BLOCK_COLUMNS columns that begins at a column of this rank, over all."""
        return (self._first_column + start) // BLOCK_COLUMNS

    def blocks(self, together: int = 1) -> Iterator[torch.Tensor]:
        """Yield (n, W) pieces of the columns, perhaps views: copy them before anything that rounds.

        Kernels round differently for other alignments and strides. together: so many blocks in one piece.
        """
        for block in torch.split(self.columns, together * self.width, dim=1):
            if block.numel():
                yield block if self.chosen is None else block.index_select(0, self.chosen)

    def choose(self, rows: torch.Tensor) -> ClientRows:
        """Return some of the rows, (n',) int64; nothing is copied."""
        self.refuse()
        rows = devices.to_device(rows, self.columns.device)
        chosen = rows if self.chosen is None else self.chosen[rows]
        return ClientRows(self.communicator, self.columns, chosen, self.dimension)

    def finite(self) -> torch.Tensor:
        """Return (n,) bool on the CPU: no NaN, no inf, no entry beyond LARGEST. Collective.

        Products or norms that have been found prove it without a pass of its own, where all rows are finite.
        """
        if self._finite is None:
            whole = self._products if self._first is None else self._first[0]
            products = None if whole is None else whole.diagonal()
            norms = None if self._norms is None else self._norms.square()
            squares = next((found for found in (products, norms, self._squared_norms) if found is not None), None)
            # NaN is not below anything either, so that such a row is looked at entry by entry
            if squares is not None and bool((squares <= _SURELY_FINITE).all()):
                self._finite = torch.ones(self.number, dtype=torch.bool)
            else:
                self._finite = self._within_range()
        return self._finite

    def refuse(self) -> None:
        """Raise NotFiniteRowsError where that is asked for. All ranks do, or none. Collective."""
        if self.refuses and not bool(self.finite().all()):
            raise NotFiniteRowsError

    def squared_norms(self) -> torch.Tensor:
        """‖x_i‖², (n,) float64 on the CPU. Collective."""
        if self._squared_norms is None:
            self._squared_norms = self._squared_distances_to(torch.zeros(self.number))
        self.refuse()
        return self._squared_norms

    def norms(self) -> torch.Tensor:
        """‖x_i‖, (n,) float64 on the CPU, to 8e-7 for float32. Collective."""
        if self._norms is None:
            # not read off products, though they may be there: bits would depend on what else was asked for
            quick = self._quick_squared_norms() if self._is_quick else None
            self._norms = (self.squared_norms() if quick is None else quick).sqrt()
        self.refuse()
        return self._norms

    def _quick_squared_norms(self) -> torch.Tensor | None:
        chunks, like = self.blocks(together=_TOGETHER), self.columns.new_empty(self.number)
        return squared_norms_by_pieces(self.communicator, chunks, BLOCK_COLUMNS, like)

    def squared_distances_to(self, weights: torch.Tensor) -> torch.Tensor:
        """‖x_i − Σ_j a_j x_j‖², (n,) float64 on the CPU. Collective."""
        self.refuse()
        return self._squared_distances_to(weights)

    def _squared_distances_to(self, weights: torch.Tensor) -> torch.Tensor:
        like = self.columns.new_empty(self.number)
        return squared_distances_to(self.communicator, self.blocks(), like, weights)

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Return Σ_i a_i x_i, (D,), the same on every rank; weights (n,) float64 on the CPU. Collective.

        Summed in float64; for float32 rows on a CPU eight rows at a time in float32, to 6e-7 · Σ_i |a_i x_i|.
        """
        self.refuse()
        used = weights.nonzero()[:, 0]
        # a rule that chose one vector returns its very bits
        if len(used) == 1 and weights[used[0]] == 1.0:
            return self.gather(block[0] for block in self.choose(used).blocks())
        if self._is_quick and len(used) > 1:
            numbers = used if self.chosen is None else self.chosen[used]
            mine = sum_by_eights(self.columns, numbers.tolist(), weights[used].tolist())
            # None on all ranks or on none, since it is so by the weights alone: nobody gathers by himself
            total = None if mine is None else self.communicator.allgather_rows(mine)
            # float32 may have overflowed where float64 does not; the sum is over all columns, so that all ranks agree
            if total is not None and math.isfinite(float(total.sum())):
                return total
        # to gather a few rows takes less time than to multiply all
        rows, of_rows = (self.choose(used), weights[used]) if 2 * len(used) <= len(weights) else (self, weights)
        of_rows = devices.to_device(of_rows, self.columns.device)
        return self.gather(torch.mv(wide.T, of_rows) for wide in copied(rows.blocks(), torch.float64))

    def gather(self, pieces: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return (D,) on every rank, of pieces (W,) of this rank's columns in their order. Collective."""
        mine = self.columns.new_empty(self.columns.shape[1])
        start = 0
        for piece in pieces:
            mine[start : start + len(piece)] = piece
            start += len(piece)
        if self.communicator.size == 1:
            return mine
        return devices.to_device(self.communicator.allgather_rows(devices.to_host(mine)), mine.device)

    def factor(self) -> tuple[torch.Tensor, int | None]:
        """Return (K, c): K_ij = ⟨z_i, z_j⟩ with z_c = x_c and z_i = x_i − x_c else. Collective.

        c is None, which stands for z_i = x_i, or where distances between the majority would be lost in rounding a row
        in its midst.
        """
        if self._factor is None:
            products, first = self._first_products()
            # before a pass more around another row, which may be such a one
            self.refuse()
            self._factor = well_centred(lambda row: products if row == first else self._around(row), first)
        return self._factor

    def products(self) -> torch.Tensor:
        """Return ⟨x_i, x_j⟩, (n, n) float64 on the CPU. Collective."""
        if self._products is None:
            self._products = self._around(None)
        self.refuse()
        return self._products

    def _first_products(self) -> tuple[torch.Tensor, int | None]:
        """Return products around the centre that the first block of columns suggests. Collective."""
        if self._first is None:
            few = torch.zeros(self.number, self.number, dtype=torch.float64)
            # one block of the whole matrix, whoever has it: more would cost the pass that a good guess saves
            if self._first_column == 0 and self.columns.shape[1]:
                wide = next(copied(self.blocks(), torch.float64))
                few = devices.to_host(wide @ wide.T)
            centre = first_centre(self.communicator.allreduce(few, "sum"))
            self._first = self._around(centre), centre
        return self._first

    def _around(self, centre: int | None) -> torch.Tensor:
        like = self.columns.new_empty((self.number, self.number))
        return products_around(self.communicator, self.blocks(), like, centre)

    def _within_range(self) -> torch.Tensor:
        extremes = self.columns.new_zeros(2, self.number, dtype=torch.float64)
        for block in self.blocks():
            # NaN is the largest and the smallest of a row that has one; two passes, since aminmax is ten times slower
            here = torch.stack([block.amax(dim=1), block.amin(dim=1).neg()])
            extremes = torch.maximum(extremes, here)
        beyond = devices.to_host(~(extremes <= LARGEST).all(dim=0))
        return self.communicator.allreduce(beyond.to(torch.int64), "max") == 0
