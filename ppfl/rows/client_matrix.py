"""N client rows of D coordinates, columns sharded over ranks: what aggregators and attacks compute on.

Columns are cut into blocks of a fixed width and ranks own whole blocks, so that results have the same bits on any
number of ranks. No rank ever holds N×D. Choosing and mixing rows costs nothing until a block is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core import devices
from ppfl.rows.client_rows import ClientRows, NotFiniteRowsError, block_columns, column_bounds
from ppfl.rows.gram import around_centre, centred, well_centred
from ppfl.rows.products import copied, mixed, squared_distances_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ppfl.core.communicator import Communicator


class ClientMatrix:
    """The vectors of N clients, (N, D), of which this rank holds the columns (N, D_r); rows are in client order.

    Results of (N,) and (N, N) are float64 on the CPU, the same on every rank.
    """

    def __init__(
        self, communicator: Communicator, columns: torch.Tensor, dimension: int, mixing: torch.Tensor | None = None
    ) -> None:
        self._rows = ClientRows(communicator, columns, None, dimension)
        self._mixing = mixing
        self._known_norms: Callable[[], torch.Tensor] | None = None

    @classmethod
    def from_stream(
        cls, communicator: Communicator, blocks: Iterable[torch.Tensor], num_rows: int, like: torch.Tensor,
        num_bytes: int,
    ) -> ClientMatrix:  # fmt: skip
        """Build from rows, in blocks (k, D) as they are produced, `num_rows` in all on this rank. Collective.

        like: (D,), of the rows' number type and on their device. A rank keeps about `num_bytes` of rows, at least one
        block, before they travel to the ranks of their columns.
        """
        batch = max(1, num_bytes // max(1, like.numel() * like.element_size()))
        if communicator.size == 1:
            # a few at once, which takes less time, but many one after the other, so that they are not held twice
            few = num_rows <= batch
            rows = torch.cat([like.new_empty(0, len(like)), *blocks]) if few else _filled(blocks, num_rows, like)
            assert len(rows) == num_rows, "more or fewer rows than announced"
            return cls(communicator, rows, len(like))
        bounds = column_bounds(len(like), communicator.size, block_columns(like.device))
        of_ranks: list[int] = communicator.allgather_rows(torch.tensor([num_rows])).tolist()
        columns = like.new_empty(sum(of_ranks), bounds[communicator.rank + 1] - bounds[communicator.rank])
        batches = _batches(blocks, batch)
        for start in range(0, max(of_ranks), batch):
            # a rank that has no rows left takes part with none: the exchange is collective, and made as often as the
            # rank with most rows needs
            mine = devices.to_host(next(batches, like.new_empty(0, len(like))))
            received = devices.to_device(communicator.rows_to_columns(mine, bounds), like.device)
            sizes = [min(max(count - start, 0), batch) for count in of_ranks]
            # the rows of a rank stand behind all rows of the ranks before it, not behind this batch of them: so rows
            # are in the order of clients whatever a batch holds
            first = start
            for count, part in zip(of_ranks, torch.split(received, sizes), strict=True):
                columns[first : first + len(part)] = part
                first += count
        assert next(batches, None) is None, "more rows than announced"
        return cls(communicator, columns, len(like))

    @property
    def device(self) -> torch.device:
        """Where the columns are, and blocks of them."""
        return self._rows.columns.device

    @property
    def num_vectors(self) -> int:
        """N."""
        return self._rows.number if self._mixing is None else len(self._mixing)

    def finite(self) -> torch.Tensor:
        """Return (N,) bool: rows as they were sent without NaN, inf or entries beyond LARGEST. Collective.

        This is a pass over them, unless inner products or norms have been asked for, which tell when all rows are.
        """
        assert self._mixing is None, "mixed rows are finite when the ones that they are mixed from are"
        return self._rows.finite()

    def if_finite(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor | None:
        """Return what a function makes of these rows; None when it looks at them and some are not finite. Collective.

        That is found in what it looks at first, so that inner products and norms cost no pass more. Whoever asks while
        another one does leaves it to the other.
        """
        if self._rows.refuses:
            return compute()
        self._rows.refuses = True
        try:
            return compute()
        except NotFiniteRowsError:
            return None
        finally:
            self._rows.refuses = False

    def gram(self) -> torch.Tensor:
        """Return X Xᵀ, or after centring by one row (X − 1x_cᵀ)(X − 1x_cᵀ)ᵀ: inner products, (N, N). Collective.

        Distances between rows are those of X: ‖x_i − x_j‖² = G_ii + G_jj − 2 G_ij. Centring keeps them from cancelling
        where the rows are close to each other and far from 0; c is a row in the midst of the majority.
        """
        products, centre = self._rows.factor()
        if self._mixing is None:
            return around_centre(products, centre)
        coordinates = self._coordinates()
        # it begins around row 0, so that None, for no centre, never comes here
        return well_centred(lambda row: centred(coordinates, products, row or 0))[0]

    def inner_products(self) -> torch.Tensor:
        """Return X Xᵀ itself, (N, N), which angles are made of; `gram` serves distances. Collective."""
        products = self._rows.products()
        if self._mixing is None:
            return products
        found = self._mixing @ products @ self._mixing.T
        # a product of three matrices is symmetric but for rounding
        return (found + found.T) / 2

    def norms(self) -> torch.Tensor:
        """‖x_i‖, (N,), of float32 rows to 8e-7: good for what is continuous in them. Collective."""
        return self._rows.norms() if self._mixing is None else self.squared_norms().sqrt()

    def exact_norms(self) -> torch.Tensor:
        """‖x_i‖, (N,), to the rounding of float64: what to choose by. Collective.

        Rows that were clipped to the same bound are equally long, although what they were clipped by, `norms`, makes
        the numbers in them differ.
        """
        return self.squared_norms().sqrt() if self._known_norms is None else self._known_norms()

    def squared_norms(self) -> torch.Tensor:
        """‖x_i‖², (N,). Collective."""
        if self._mixing is None:
            return self._rows.squared_norms()
        coordinates = self._coordinates()
        # rounding can lead below 0, and the root of that is NaN
        return ((coordinates @ self._rows.factor()[0]) * coordinates).sum(dim=1).clamp_min(0.0)

    def squared_distances_to(self, weights: torch.Tensor) -> torch.Tensor:
        """‖x_i − Σ_j a_j x_j‖², (N,), in a pass of its own, for any weights a, (N,). Collective."""
        if self._mixing is None:
            return self._rows.squared_distances_to(weights)
        like = self._rows.columns.new_empty(self.num_vectors)
        return squared_distances_to(self._rows.communicator, self._blocks(torch.float64), like, weights)

    def select(self, rows: torch.Tensor) -> ClientMatrix:
        """Return the rows (N',) int64, some left out or repeated."""
        if self._mixing is None:
            return self._derived(self._rows.choose(rows), None)
        selected = self._derived(self._rows, self._mixing.index_select(0, rows))
        selected._known_norms = lambda: self.exact_norms().index_select(0, rows.cpu())
        return selected

    def mix(self, matrix: torch.Tensor, norms: Callable[[], torch.Tensor] | None = None) -> ClientMatrix:
        """Return matrix @ X for a (N', N) matrix: each new row is a weighted sum of old ones.

        norms: what `exact_norms` is to be, (N',), for who knows it better than the numbers in the new rows tell.
        """
        wide = matrix.to("cpu", torch.float64)
        mixed = self._derived(self._rows, wide if self._mixing is None else wide @ self._mixing)
        multiples = (wide != 0).sum(dim=1) <= 1

        def of_multiples() -> torch.Tensor:
            """‖a x_j‖ = |a| ‖x_j‖: rows that were equally long remain so."""
            if not bool(multiples.any()):
                return mixed.squared_norms().sqrt()
            found = wide.abs() @ self.exact_norms()
            return found if bool(multiples.all()) else torch.where(multiples, found, mixed.squared_norms().sqrt())

        mixed._known_norms = norms or of_multiples
        return mixed

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Return weightsᵀ X, shape (D,), the same on every rank; weights (N,).

        Summed in float64; for float32 rows on a CPU eight rows at a time in float32, to 6e-7 · Σ_i |a_i x_i|.
        """
        weights = weights.to("cpu", torch.float64)
        return self._rows.combine(weights if self._mixing is None else weights @ self._mixing)

    def coordinatewise(self, function: Callable[[torch.Tensor], torch.Tensor], exact: bool = False) -> torch.Tensor:
        """Apply (N, W) -> (W,) to every block of columns; return (D,), the same on every rank.

        Blocks are copies that the function may overwrite, and that change as soon as it has returned.
        Mixed rows are summed in float64 and then rounded to the number type of those that came, as a client would that
        sends them; not so if `exact`, for a function that jumps where two values are equally good.
        """
        dtype = torch.float64 if exact and self._mixing is not None else self._rows.columns.dtype
        return self._rows.gather(function(block) for block in self._blocks(dtype))

    def map_blocks(self, function: Callable[[torch.Tensor, int], torch.Tensor]) -> ClientMatrix:
        """Apply (N, W), number of the block -> (N, W) to every block of columns.

        Blocks are numbered over all ranks, as if each had BLOCK_COLUMNS columns; one may have several times as many.
        """
        rows, start = self._rows, 0
        changed = rows.columns.new_empty(self.num_vectors, rows.columns.shape[1])
        dtype = rows.columns.dtype if self._mixing is None else torch.float64
        for block in self._blocks(dtype):
            width = block.shape[1]
            changed[:, start : start + width] = function(block, rows.number_of_block(start))
            start += width
        return ClientMatrix(rows.communicator, changed, rows.dimension)

    def to_rows(self, num_rows: int) -> torch.Tensor:
        """Return this rank's share of the rows, (C, D): the inverse of `from_stream`. Collective.

        num_rows: C; N over all ranks, in the order of ranks. Mixed rows are rounded to the number type of those that
        came.
        """
        rows = self._rows
        columns = self.map_blocks(lambda block, _: block)._rows.columns
        if rows.communicator.size == 1:
            return columns
        bounds = column_bounds(rows.dimension, rows.communicator.size, rows.width)
        received = rows.communicator.columns_to_rows(devices.to_host(columns), bounds, num_rows)
        return devices.to_device(received, columns.device)

    def _blocks(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """Yield copies of (N, W) blocks, each in the place of the one before it."""
        self._rows.refuse()
        if self._mixing is None:
            return copied(self._rows.blocks(), dtype)
        blocks = mixed(devices.to_device(self._mixing, self.device), self._rows.blocks())
        return blocks if dtype == torch.float64 else copied(blocks, dtype)

    def _coordinates(self) -> torch.Tensor:
        """Rows in terms of z of `ClientRows.factor`, (N, n)."""
        centre, number = self._rows.factor()[1], self._rows.number
        mixing = torch.eye(number, dtype=torch.float64) if self._mixing is None else self._mixing.clone()
        # Σ a_i x_i = Σ_{i≠c} a_i z_i + (Σ a_i) z_c, since every other z_i lacks one x_c, and z_c is x_c
        if centre is not None:
            mixing[:, centre] = mixing.sum(dim=1)
        return mixing

    def _derived(self, rows: ClientRows, mixing: torch.Tensor | None) -> ClientMatrix:
        # not by the constructor, which would begin rows anew: products and norms that were found would be found once
        # more
        derived = ClientMatrix.__new__(ClientMatrix)
        derived._rows, derived._mixing, derived._known_norms = rows, mixing, None
        return derived


def _filled(blocks: Iterable[torch.Tensor], num_rows: int, like: torch.Tensor) -> torch.Tensor:
    """Return a matrix into which blocks of rows (k, D) were written below each other."""
    matrix, filled = like.new_empty(num_rows, len(like)), 0
    for block in blocks:
        assert filled + len(block) <= len(matrix), "more rows than announced"
        matrix[filled : filled + len(block)] = block
        filled += len(block)
    return matrix[:filled]


def _batches(blocks: Iterable[torch.Tensor], batch: int) -> Iterator[torch.Tensor]:
    """Yield the rows of blocks (k, D) again, so many at a time but for the last ones, in memory of their own."""
    waiting: list[torch.Tensor] = []
    num_waiting = 0
    for block in blocks:
        rest = block
        while len(rest):
            waiting.append(rest[: batch - num_waiting])
            rest = rest[len(waiting[-1]) :]
            num_waiting += len(waiting[-1])
            if num_waiting == batch:
                yield torch.cat(waiting)
                waiting, num_waiting = [], 0
    if waiting:
        yield torch.cat(waiting)
