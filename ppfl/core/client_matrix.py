"""N client rows of D coordinates, columns sharded over ranks: what aggregators and attacks compute on.

Columns are cut into blocks of a fixed width and ranks own whole blocks, so that results have the same bits on any
number of ranks. No rank ever holds N×D.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.exact_sum import ExactSum

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.core.communicator import Communicator

BLOCK_COLUMNS = 8192


def column_bounds(dimension: int, num_ranks: int) -> list[int]:
    """Return P + 1 bounds: rank r owns columns bounds[r]:bounds[r + 1], whole blocks, spread evenly."""
    num_blocks = -(-dimension // BLOCK_COLUMNS)
    return [min(num_blocks * rank // num_ranks * BLOCK_COLUMNS, dimension) for rank in range(num_ranks)] + [dimension]


class ClientMatrix:
    """The vectors of N clients, (N, D), of which this rank holds the columns (N, D_r); rows are in client order."""

    def __init__(self, communicator: Communicator, columns: torch.Tensor, dimension: int) -> None:
        self._communicator = communicator
        self._columns = columns
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
        return self._columns.shape[0]

    def _blocks(self) -> list[torch.Tensor]:
        # a copy each: kernels round differently for other alignments and strides
        return [block.contiguous() for block in torch.split(self._columns, BLOCK_COLUMNS, dim=1) if block.numel()]

    def gram(self) -> torch.Tensor:
        """Return (X − 1x₀ᵀ)(X − 1x₀ᵀ)ᵀ, (N, N) float64: inner products after centring by the first row.

        Distances between rows are those of X: ‖x_i − x_j‖² = G_ii + G_jj − 2 G_ij. Centring keeps them from
        cancelling when the rows are close to each other and far from 0.
        """
        n = self.num_vectors
        total = ExactSum(n * n, device=self._columns.device)
        for block in self._blocks():
            centred = block.to(torch.float64)
            centred = centred - centred[:1]
            total.add((centred @ centred.T).reshape(-1))
        return total.reduce(self._communicator).reshape(n, n)

    def mix(self, matrix: torch.Tensor) -> ClientMatrix:
        """Return matrix @ X for a (N', N) matrix: each new row is a weighted sum of old ones."""
        return self._per_block(lambda block: matrix.to(block.dtype) @ block)

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Return weightsᵀ X, shape (D,), the same on every rank; weights (N,)."""
        return self.coordinatewise(lambda block: (weights.to(block.dtype)[None, :] @ block)[0])

    def coordinatewise(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Apply (N, B) -> (B,) to every block of columns; return (D,), the same on every rank."""
        pieces = [function(block) for block in self._blocks()]
        mine = torch.cat(pieces) if pieces else self._columns.new_zeros(0)
        return self._communicator.allgather_rows(mine.cpu().contiguous()).to(mine.device)

    def _per_block(self, function: Callable[[torch.Tensor], torch.Tensor]) -> ClientMatrix:
        pieces = [function(block) for block in self._blocks()]
        if not pieces:
            return self._like(function(self._columns))
        return self._like(torch.cat(pieces, dim=1))

    def _like(self, columns: torch.Tensor) -> ClientMatrix:
        return ClientMatrix(self._communicator, columns, self.dimension)
