"""Uplinks that wait for a step of an asynchronous server which looks at each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ppfl.core import devices
from ppfl.core.params import flatten, unflatten
from ppfl.core.snapshot import HeldColumns
from ppfl.engine.exchange.rows import of_matrix
from ppfl.rows import client_rows
from ppfl.rows.client_matrix import ClientMatrix
from ppfl.rows.client_rows import block_columns, column_bounds

if TYPE_CHECKING:
    from ppfl.core.snapshot import Columns
    from ppfl.core.types import Params
    from ppfl.engine.setup import Setup


class Buffer:
    """The latest uplinks of up to Q clients, in the order in which these came; this rank keeps its columns alone.

    One row a client, since a rule for f attackers among 2f + 1 says nothing where one of them may fill the buffer by
    being fast. Source of the idea: Yang & Li, ICML 2021 (BASGD), where a client always counts for the same of several
    buffers, in which uplinks are averaged; here the later of two, whose θ is no older, takes the place of the other.
    """

    def __init__(self, setup: Setup, like: Params) -> None:
        assert setup.asynchronous is not None
        vector = flatten(like)
        self._setup, self._like = setup, like
        self._bounds = column_bounds(len(vector), setup.communicator.size, block_columns(vector.device))
        first, end = self._bounds_of(setup.communicator.rank)
        self._first = first
        self._columns = vector.new_empty(setup.asynchronous.buffer, end - first)
        self.delays: dict[int, int] = {}
        """Of the uplink of each client that is in there."""
        self.num_replaced = 0
        """Uplinks whose place a later one has taken."""
        self.num_nonfinite = 0
        """Vectors with NaN or inf that were left out of steps."""

    def columns_of(self, vector: torch.Tensor, rank: int) -> torch.Tensor:
        """Return what a rank keeps of an uplink (D,)."""
        first, end = self._bounds_of(rank)
        return vector[first:end]

    def add(self, client: int, columns: torch.Tensor, delay: int) -> None:
        """Keep this rank's columns of an uplink, (D_r,)."""
        self.num_replaced += client in self.delays
        self.delays[client] = delay  # in the place of an earlier one, or at the end
        self._columns[list(self.delays).index(client)] = columns

    def aggregate(self, version: int) -> Params:
        """Return what attackers and the rule make of all uplinks, NaN where nothing; begin anew. Collective.

        version: steps of the server so far, by which all that is random is keyed.
        """
        # rows in the order of arrival, which decides ties: all ranks and a replay have it, and no clock is asked
        setup, senders = self._setup, list(self.delays)
        rows = self._columns[: len(senders)]
        sent = ClientMatrix(setup.communicator, rows, self._bounds[-1])
        vector, num_nonfinite = of_matrix(setup, sent, senders, flatten(self._like), version)
        self.num_nonfinite += num_nonfinite
        self.delays = {}
        return unflatten(vector, self._like)

    @property
    def numbers(self) -> dict[str, Any]:
        """What a snapshot needs to know beside columns."""
        delays = list(self.delays.items())
        return {"delays": delays, "num_replaced": self.num_replaced, "num_nonfinite": self.num_nonfinite}

    @property
    def columns(self) -> HeldColumns:
        """What this rank has of the uplinks, for a snapshot."""
        width, rows = client_rows.BLOCK_COLUMNS, self._columns[: len(self.delays)]
        if not rows.numel():
            return HeldColumns({})
        pieces = torch.split(rows, width, dim=1)
        return HeldColumns({self._first + number * width: piece for number, piece in enumerate(pieces)})

    def restore(self, numbers: dict[str, Any], columns: Columns) -> None:
        """Go on from a snapshot: take what is this rank's, piece by piece, whichever ranks had it before."""
        self.delays = dict(numbers["delays"])
        self.num_replaced, self.num_nonfinite = numbers["num_replaced"], numbers["num_nonfinite"]
        end = self._first + self._columns.shape[1]
        # pieces are of those ranks that wrote them, whose bounds may lie amid this one's columns
        for start in columns.starts:
            width = columns.like(start).shape[1]
            left, right = max(start, self._first), min(start + width, end)
            if left < right:
                piece = devices.to_device(columns.read(start), self._columns.device)
                mine = self._columns[: len(self.delays), left - self._first : right - self._first]
                mine.copy_(piece[:, left - start : right - start])

    def _bounds_of(self, rank: int) -> tuple[int, int]:
        return self._bounds[rank], self._bounds[rank + 1]
