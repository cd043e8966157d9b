"""N client rows of D coordinates, columns sharded over ranks: what aggregators and attacks compute on.

Columns are cut into blocks of a fixed width and ranks own whole blocks, so that results have the same bits on any
number of ranks. No rank ever holds N×D. Choosing and mixing rows costs nothing until a block is looked at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ppfl.core.exact_sum import ExactSum
from ppfl.core.gram import centred, well_centred, with_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ppfl.core.communicator import Communicator

BLOCK_COLUMNS = 8192
LARGEST = 1e140
"""Rows with an entry beyond count as not finite: their squares would not be."""
_LEAST_EXPONENT = -1000.0


def column_bounds(dimension: int, num_ranks: int) -> list[int]:
    """Return P + 1 bounds: rank r owns columns bounds[r]:bounds[r + 1], whole blocks, spread evenly."""
    num_blocks = -(-dimension // BLOCK_COLUMNS)
    return [min(num_blocks * rank // num_ranks * BLOCK_COLUMNS, dimension) for rank in range(num_ranks)] + [dimension]


class _Rows:
    """Some rows of a matrix of which this rank holds the columns (n, D_r); what is costly to find is kept."""

    def __init__(self, communicator: Communicator, columns: torch.Tensor, chosen: torch.Tensor | None) -> None:
        self.communicator = communicator
        self.columns = columns
        self.chosen = chosen
        self.number = columns.shape[0] if chosen is None else len(chosen)
        # not functools.cached_property: on Python 3.11 it holds one lock for all instances, also for ranks as threads
        self._magnitudes: torch.Tensor | None = None
        self._factor: tuple[torch.Tensor, int] | None = None

    def blocks(self) -> Iterator[torch.Tensor]:
        """Yield (n, B) pieces of the columns; a copy each: kernels round differently for other alignments, strides."""
        for block in torch.split(self.columns, BLOCK_COLUMNS, dim=1):
            if block.numel():
                yield block.contiguous() if self.chosen is None else block.index_select(0, self.chosen)

    def choose(self, rows: torch.Tensor) -> _Rows:
        rows = rows.to(self.columns.device)
        return _Rows(self.communicator, self.columns, rows if self.chosen is None else self.chosen[rows])

    def magnitudes(self) -> torch.Tensor:
        """max_d |x_id|, (n,) float64 on the CPU, inf for NaN. Collective."""
        if self._magnitudes is None:
            self._magnitudes = self._largest(block.abs() for block in self.blocks())
        return self._magnitudes

    def factor(self) -> tuple[torch.Tensor, int]:
        """Return (K, c): K_ij = ⟨z_i, z_j⟩ with z_c = x_c and z_i = x_i − x_c else. Collective.

        c is 0, or where that row lies so far off that distances between the others would be lost in rounding (an
        attacker's row may) one in the midst of the majority.
        """
        if self._factor is None:
            self._factor = well_centred(self._products)
        return self._factor

    def _products(self, centre: int) -> torch.Tensor:
        def moved() -> Iterator[torch.Tensor]:
            for block in self.blocks():
                wide = block.to(torch.float64)
                yield with_row(wide - wide[centre], centre, wide[centre])

        # each row brought to the size of 1: the exact sum keeps bits counted from the largest entry of all
        exponents = torch.frexp(self._largest(block.abs() for block in moved())).exponent.to(torch.float64)
        exponents = exponents.clamp_min(_LEAST_EXPONENT)
        scale = torch.exp2(-exponents).to(self.columns.device)[:, None]
        total = ExactSum(self.number**2, device=self.columns.device)
        for block in moved():
            scaled = block * scale
            total.add((scaled @ scaled.T).reshape(-1))
        products = total.reduce(self.communicator).cpu().reshape(self.number, self.number)
        return products * torch.exp2(exponents[:, None]) * torch.exp2(exponents[None, :])

    def _largest(self, blocks: Iterator[torch.Tensor]) -> torch.Tensor:
        largest = torch.zeros(self.number, dtype=torch.float64)
        for block in blocks:
            largest = torch.maximum(largest, block.amax(dim=1).to("cpu", torch.float64))
        return self.communicator.allreduce(largest.nan_to_num(nan=math.inf, posinf=math.inf), "max")


class ClientMatrix:
    """The vectors of N clients, (N, D), of which this rank holds the columns (N, D_r); rows are in client order.

    Results of (N,) and (N, N) are float64 on the CPU, the same on every rank.
    """

    def __init__(
        self, communicator: Communicator, columns: torch.Tensor, dimension: int, mixing: torch.Tensor | None = None
    ) -> None:
        self._rows = _Rows(communicator, columns, None)
        self._mixing = mixing
        self.dimension = dimension

    @classmethod
    def from_rows(cls, communicator: Communicator, rows: torch.Tensor) -> ClientMatrix:
        """Build from the (C, D) rows that each rank has; C may be 0, D is the same on all ranks."""
        dimension = rows.shape[1]
        bounds = column_bounds(dimension, communicator.size)
        columns = communicator.rows_to_columns(rows.cpu().contiguous(), bounds).to(rows.device)
        return cls(communicator, columns, dimension)

    @property
    def num_vectors(self) -> int:
        """N."""
        return self._rows.number if self._mixing is None else len(self._mixing)

    def finite(self) -> torch.Tensor:
        """Return (N,) bool: rows as they were sent without NaN, inf or entries beyond LARGEST. Collective."""
        assert self._mixing is None, "mixed rows are finite when the ones that they are mixed from are"
        return self._rows.magnitudes() <= LARGEST

    def gram(self) -> torch.Tensor:
        """Return (X − 1x_cᵀ)(X − 1x_cᵀ)ᵀ, (N, N): inner products after centring by one row. Collective.

        Distances between rows are those of X: ‖x_i − x_j‖² = G_ii + G_jj − 2 G_ij. Centring keeps them from
        cancelling when the rows are close to each other and far from 0. c is 0, or a row in the midst of the majority
        where that one is too far off.
        """
        products, centre = self._rows.factor()
        if self._mixing is None:
            return with_row(products, centre, 0.0)
        coordinates = self._coordinates()
        return well_centred(lambda row: centred(coordinates, products, row))[0]

    def squared_norms(self) -> torch.Tensor:
        """‖x_i‖², (N,). Collective."""
        coordinates = self._coordinates()
        return ((coordinates @ self._rows.factor()[0]) * coordinates).sum(dim=1).clamp_min(0.0)

    def select(self, rows: torch.Tensor) -> ClientMatrix:
        """Return the rows (N',) int64, some left out or repeated."""
        if self._mixing is not None:
            return self._derived(self._rows, self._mixing.index_select(0, rows))
        return self._derived(self._rows.choose(rows), None)

    def mix(self, matrix: torch.Tensor) -> ClientMatrix:
        """Return matrix @ X for a (N', N) matrix: each new row is a weighted sum of old ones."""
        wide = matrix.to("cpu", torch.float64)
        return self._derived(self._rows, wide if self._mixing is None else wide @ self._mixing)

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Return weightsᵀ X, shape (D,), the same on every rank, summed in float64; weights (N,)."""
        weights = weights.to("cpu", torch.float64)
        of_rows = weights if self._mixing is None else weights @ self._mixing
        row = of_rows[None, :].to(self._rows.columns.device)
        return self._gather([(row @ block.to(torch.float64))[0] for block in self._rows.blocks()])

    def coordinatewise(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Apply (N, B) -> (B,) to every block of columns; return (D,), the same on every rank.

        Blocks are float64 when rows were mixed.
        """
        return self._gather([function(block) for block in self._blocks()])

    def map_blocks(self, function: Callable[[torch.Tensor, int], torch.Tensor]) -> ClientMatrix:
        """Apply (N, B), number of the block -> (N, B) to every block of columns; blocks are numbered over all ranks."""
        communicator, columns = self._rows.communicator, self._rows.columns
        first = column_bounds(self.dimension, communicator.size)[communicator.rank] // BLOCK_COLUMNS
        pieces = [function(block, first + k).to(columns.dtype) for k, block in enumerate(self._blocks())]
        changed = torch.cat(pieces, dim=1) if pieces else columns.new_zeros(self.num_vectors, 0)
        return ClientMatrix(communicator, changed, self.dimension)

    def _blocks(self) -> Iterator[torch.Tensor]:
        if self._mixing is None:
            yield from self._rows.blocks()
            return
        mixing = self._mixing.to(self._rows.columns.device)
        for block in self._rows.blocks():
            yield mixing @ block.to(torch.float64)

    def _coordinates(self) -> torch.Tensor:
        """Rows in terms of z of `_Rows.factor`, (N, n)."""
        centre, number = self._rows.factor()[1], self._rows.number
        mixing = torch.eye(number, dtype=torch.float64) if self._mixing is None else self._mixing.clone()
        mixing[:, centre] = mixing.sum(dim=1)
        return mixing

    def _gather(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        columns = self._rows.columns
        mine = torch.cat(pieces).to(columns.dtype) if pieces else columns.new_zeros(0)
        return self._rows.communicator.allgather_rows(mine.cpu().contiguous()).to(columns.device)

    def _derived(self, rows: _Rows, mixing: torch.Tensor | None) -> ClientMatrix:
        derived = ClientMatrix.__new__(ClientMatrix)
        derived._rows, derived._mixing, derived.dimension = rows, mixing, self.dimension
        return derived
