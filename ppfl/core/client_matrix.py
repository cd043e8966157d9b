"""N client rows of D coordinates, columns sharded over ranks: what aggregators and attacks compute on.

Columns are cut into blocks of a fixed width and ranks own whole blocks, so that results have the same bits on any
number of ranks. No rank ever holds N×D. Choosing and mixing rows costs nothing until a block is looked at.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from ppfl.core.gram import centred, well_centred, with_row
from ppfl.core.products import copied, mixed, products_around, squared_distances_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ppfl.core.communicator import Communicator

BLOCK_COLUMNS = 8192
LARGEST = 1e140
"""Rows with an entry beyond count as not finite: their squares would not be."""
Reads: TypeAlias = Literal["entries", "norms", "products"]
"""What a rule looks at first: NaN and inf are found in the same pass."""
_SURELY_FINITE = 1e200
"""Squares of entries up to which those of x_c and x_i − x_c prove that no entry of x_i is beyond LARGEST."""


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
        self._finite: torch.Tensor | None = None
        self._squared_norms: torch.Tensor | None = None
        self._first_products: torch.Tensor | None = None
        self._factor: tuple[torch.Tensor, int] | None = None

    def blocks(self) -> Iterator[torch.Tensor]:
        """Yield (n, B) pieces of the columns, perhaps views: copy them before anything that rounds.

        Kernels round differently for other alignments and strides.
        """
        for block in torch.split(self.columns, BLOCK_COLUMNS, dim=1):
            if block.numel():
                yield block if self.chosen is None else block.index_select(0, self.chosen)

    def choose(self, rows: torch.Tensor) -> _Rows:
        rows = rows.to(self.columns.device)
        return _Rows(self.communicator, self.columns, rows if self.chosen is None else self.chosen[rows])

    def finite(self, reads: Reads) -> torch.Tensor:
        """Return (n,) bool on the CPU: no NaN, no inf, no entry beyond LARGEST. Collective.

        reads: see first whether these products or norms, which are kept, prove it without a pass of its own.
        """
        if self._finite is None:
            squares = None
            if reads != "entries":
                squares = self._around(0).diagonal() if reads == "products" else self.squared_norms()
            if squares is not None and bool((squares <= _SURELY_FINITE).all()):
                self._finite = torch.ones(self.number, dtype=torch.bool)
            else:
                self._finite = self._within_range()
        return self._finite

    def squared_norms(self) -> torch.Tensor:
        """‖x_i‖², (n,) float64 on the CPU. Collective."""
        if self._squared_norms is None:
            self._squared_norms = self.squared_distances_to(torch.zeros(self.number))
        return self._squared_norms

    def squared_distances_to(self, weights: torch.Tensor) -> torch.Tensor:
        """‖x_i − Σ_j a_j x_j‖², (n,) float64 on the CPU. Collective."""
        like = self.columns.new_empty(self.number)
        return squared_distances_to(self.communicator, self.blocks(), like, weights)

    def factor(self) -> tuple[torch.Tensor, int]:
        """Return (K, c): K_ij = ⟨z_i, z_j⟩ with z_c = x_c and z_i = x_i − x_c else. Collective.

        c is 0, or where that row lies so far off that distances between the others would be lost in rounding (an
        attacker's row may) one in the midst of the majority.
        """
        if self._factor is None:
            self._factor = well_centred(self._around)
        return self._factor

    def _around(self, centre: int) -> torch.Tensor:
        if centre == 0 and self._first_products is not None:
            return self._first_products
        like = self.columns.new_empty((self.number, self.number))
        products = products_around(self.communicator, self.blocks(), like, centre)
        if centre == 0:
            self._first_products = products
        return products

    def _within_range(self) -> torch.Tensor:
        extremes = torch.zeros(2, self.number, dtype=torch.float64)
        for block in self.blocks():
            # NaN is the largest and the smallest of a row that has one; two passes, since aminmax is ten times slower
            here = torch.stack([block.amax(dim=1), block.amin(dim=1).neg()]).to("cpu", torch.float64)
            extremes = torch.maximum(extremes, here)
        beyond = ~(extremes <= LARGEST).all(dim=0)
        return self.communicator.allreduce(beyond.to(torch.int64), "max") == 0


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
    def from_stream(
        cls, communicator: Communicator, rows: Iterable[torch.Tensor], num_rows: int, like: torch.Tensor, num_bytes: int
    ) -> ClientMatrix:
        """Build from rows (D,) as they are produced, `num_rows` of them on this rank, all like `like`. Collective.

        A rank keeps about `num_bytes` of rows, at least one, before they travel to the ranks of their columns.
        """
        bounds = column_bounds(len(like), communicator.size)
        of_ranks: list[int] = communicator.allgather_rows(torch.tensor([num_rows])).tolist()
        batch = max(1, num_bytes // max(1, like.numel() * like.element_size()))
        columns = like.new_empty(sum(of_ranks), bounds[communicator.rank + 1] - bounds[communicator.rank])
        source = iter(rows)
        for start in range(0, max(of_ranks), batch):
            mine = list(islice(source, batch))
            block = torch.stack(mine) if mine else like.new_empty(0, len(like))
            received = communicator.rows_to_columns(block.cpu(), bounds).to(like.device)
            sizes = [min(max(count - start, 0), batch) for count in of_ranks]
            first = start
            for count, part in zip(of_ranks, torch.split(received, sizes), strict=True):
                columns[first : first + len(part)] = part
                first += count
        assert next(source, None) is None, "more rows than announced"
        return cls(communicator, columns, len(like))

    @property
    def num_vectors(self) -> int:
        """N."""
        return self._rows.number if self._mixing is None else len(self._mixing)

    def finite(self, reads: Reads = "entries") -> torch.Tensor:
        """Return (N,) bool: rows as they were sent without NaN, inf or entries beyond LARGEST. Collective.

        reads: look at their inner products or norms first, which saves a pass when all rows are finite and these are
        needed anyway.
        """
        assert self._mixing is None, "mixed rows are finite when the ones that they are mixed from are"
        return self._rows.finite(reads)

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
        if self._mixing is None:
            return self._rows.squared_norms()
        coordinates = self._coordinates()
        return ((coordinates @ self._rows.factor()[0]) * coordinates).sum(dim=1).clamp_min(0.0)

    def squared_distances_to(self, weights: torch.Tensor) -> torch.Tensor:
        """‖x_i − Σ_j a_j x_j‖², (N,), in a pass of its own, for any weights a, (N,). Collective."""
        if self._mixing is None:
            return self._rows.squared_distances_to(weights)
        like = self._rows.columns.new_empty(self.num_vectors)
        return squared_distances_to(self._rows.communicator, self._blocks(torch.float64), like, weights)

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
        rows, used = self._rows, of_rows.nonzero()[:, 0]
        if 2 * len(used) <= len(of_rows):  # to gather a few rows takes less time than to multiply all
            rows, of_rows = rows.choose(used), of_rows[used]
        if len(of_rows) == 1 and of_rows[0] == 1.0:
            return self._gather(block[0] for block in rows.blocks())
        of_rows = of_rows.to(rows.columns.device)
        return self._gather(torch.mv(wide.T, of_rows) for wide in copied(rows.blocks(), torch.float64))

    def coordinatewise(self, function: Callable[[torch.Tensor], torch.Tensor], exact: bool = False) -> torch.Tensor:
        """Apply (N, B) -> (B,) to every block of columns; return (D,), the same on every rank.

        Blocks are copies that the function may overwrite, and that change as soon as it has returned.
        Mixed rows are summed in float64 and then rounded to the number type of those that came, as a client would that
        sends them; not so if `exact`, for a function that jumps where two values are equally good.
        """
        dtype = torch.float64 if exact and self._mixing is not None else self._rows.columns.dtype
        return self._gather(function(block) for block in self._blocks(dtype))

    def map_blocks(self, function: Callable[[torch.Tensor, int], torch.Tensor]) -> ClientMatrix:
        """Apply (N, B), number of the block -> (N, B) to every block of columns; blocks are numbered over all ranks."""
        communicator, columns = self._rows.communicator, self._rows.columns
        first = column_bounds(self.dimension, communicator.size)[communicator.rank] // BLOCK_COLUMNS
        changed = columns.new_empty(self.num_vectors, columns.shape[1])
        dtype = columns.dtype if self._mixing is None else torch.float64
        for k, block in enumerate(self._blocks(dtype)):
            changed[:, k * BLOCK_COLUMNS : (k + 1) * BLOCK_COLUMNS] = function(block, first + k)
        return ClientMatrix(communicator, changed, self.dimension)

    def _blocks(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """Yield copies of (N, B) blocks, each in the place of the one before it."""
        if self._mixing is None:
            return copied(self._rows.blocks(), dtype)
        blocks = mixed(self._mixing.to(self._rows.columns.device), self._rows.blocks())
        return blocks if dtype == torch.float64 else copied(blocks, dtype)

    def _coordinates(self) -> torch.Tensor:
        """Rows in terms of z of `_Rows.factor`, (N, n)."""
        centre, number = self._rows.factor()[1], self._rows.number
        mixing = torch.eye(number, dtype=torch.float64) if self._mixing is None else self._mixing.clone()
        mixing[:, centre] = mixing.sum(dim=1)
        return mixing

    def _gather(self, pieces: Iterable[torch.Tensor]) -> torch.Tensor:
        columns = self._rows.columns
        mine = columns.new_empty(columns.shape[1])
        for k, piece in enumerate(pieces):
            mine[k * BLOCK_COLUMNS : (k + 1) * BLOCK_COLUMNS] = piece
        return self._rows.communicator.allgather_rows(mine.cpu()).to(columns.device)

    def _derived(self, rows: _Rows, mixing: torch.Tensor | None) -> ClientMatrix:
        derived = ClientMatrix.__new__(ClientMatrix)
        derived._rows, derived._mixing, derived.dimension = rows, mixing, self.dimension
        return derived
