"""What depends on θ alone, evaluated once for the samples of one client and every use of them at this θ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from ppfl.core.params import num_bytes
from ppfl.interfaces.client_data import SampledData, join
from ppfl.interfaces.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.types import Data, Params
    from ppfl.interfaces.client_data import ClientData, Part
    from ppfl.interfaces.objective import Objective

KEPT_BYTES = 1 << 28
"""Bytes of advanced samples that are kept of one client, and of those that wait for the final stages together: 131,000
samples of 512 features in float32, and a quarter of what the graph of a gradient may take. Samples beyond are advanced
again at every use."""

Spans: TypeAlias = "list[tuple[Part, slice]]"
"""Which rows of a piece belong to which part."""
_Use: TypeAlias = Literal["scored", "training"]
_Cut: TypeAlias = "list[tuple[Part, torch.Tensor]]"
"""The rows of parts that a piece is made of."""


class AdvancedClient:
    """The data of one client of this rank, for scores and fine-tuning at one θ after another, each said by its values.

    Samples are advanced in pieces of `Objective.piece_rows` across the bounds of parts, and kept as long as what
    `advance` reads of θ stays what it was; a row's bits depend on the client's own samples alone. Data without rows
    (`Statistics`) pass through `advance` as they come.

    >>> import torch
    >>> from ppfl.interfaces.advanced_client import AdvancedClient
    >>> from ppfl.interfaces.client_data import SampledData
    >>> class Points(SampledData):
    ...     client_names, num_train_samples, clients = ("a",), (4,), range(1)
    ...
    ...     def part_sizes(self, part):
    ...         return (4,) if part == "train" else (1,)
    ...
    ...     def samples(self, client, part, rows):
    ...         return {"x": torch.arange(4.0)[rows], "y": torch.zeros(4)[rows]}
    ...
    ...     def data(self, client, round):
    ...         return self.samples(client, "train", torch.arange(4))
    ...
    ...     def epoch_rows(self, client, epoch):
    ...         return [torch.tensor([2, 0]), torch.tensor([3, 1])]
    >>> class Scaled:  # all of an objective that is asked for
    ...     piece_rows = 128
    ...
    ...     def prefix_of(self, shared):
    ...         return shared
    ...
    ...     def advance(self, shared, data):
    ...         print("advances", len(data["x"]))
    ...         return {"features": shared["theta"] * data["x"], "y": data["y"]}
    >>> client, theta = AdvancedClient(Scaled(), Points(), 0), {"theta": torch.tensor(3.0)}
    >>> [batch["features"].tolist() for epoch in range(2) for batch in client.epoch(theta, epoch)]
    advances 4
    [[6.0, 0.0], [9.0, 3.0], [6.0, 0.0], [9.0, 3.0]]
    >>> [spans for _, spans in client.scored(theta)]
    advances 2
    [[('test', slice(0, 1, None)), ('validation', slice(1, 2, None))]]
    """

    def __init__(
        self, objective: Objective, client_data: ClientData, client: int, selection: Selection | None = None
    ) -> None:
        self.client = client
        self._objective, self._client_data = objective, client_data
        self._selection = selection or Selection()
        self._theta: Params = {}
        self._kept: dict[_Use, Data] = {}
        self.kept_bytes = 0
        """Of what is kept at this time."""
        self._too_large: dict[_Use, int] = {}
        """Bytes of a sample of what does not fit."""

    def scored(self, shared: Params) -> Iterator[tuple[Data, Spans]]:
        """Yield what is scored, advanced, piece by piece."""
        for use in ("training", "scored") if self._scores_all_training else ("scored",):
            whole, size = self._whole(use, shared), self._objective.piece_rows
            for number, cut in enumerate(self._cuts(use)):
                rows = slice(number * size, (number + 1) * size)
                piece = {name: value[rows] for name, value in whole.items()} if whole else self._advance(shared, cut)
                yield piece, _spans(cut)

    def epoch(self, shared: Params, epoch: int) -> Iterator[Data]:
        """Yield the batches of `ClientData.training_epoch`, advanced."""
        if not isinstance(self._client_data, SampledData) or self._client_data.changes_training:
            for batch in self._client_data.training_epoch(self.client, epoch):
                yield self._objective.advance(shared, batch)
            return
        batches, whole = self._client_data.epoch_rows(self.client, epoch), self._whole("training", shared)
        if whole:
            for rows in batches:
                yield {name: value[rows] for name, value in whole.items()}
            return
        while batches:
            # as many at a time as may be kept, so that pieces are full
            room, group = max(KEPT_BYTES // self._too_large["training"], 1), [batches.pop(0)]
            while batches and sum(map(len, group)) + len(batches[0]) <= room:
                group.append(batches.pop(0))
            together = self._advance(shared, [("train", torch.cat(group))])
            of_batches = {name: torch.split(value, [len(rows) for rows in group]) for name, value in together.items()}
            yield from ({name: of[k] for name, of in of_batches.items()} for k in range(len(group)))

    def _whole(self, use: _Use, shared: Params) -> Data | None:
        """Return all samples of a use, advanced; None where there are none, or more than may be kept."""
        theta = self._objective.prefix_of(shared)
        if not _is_same(theta, self._theta):
            self._theta, self._kept, self.kept_bytes, self._too_large = theta, {}, 0, {}
        if use not in self._kept and use not in self._too_large and (cuts := self._cuts(use)):
            first = self._advance(shared, cuts[0])
            bytes_a_sample = -(-num_bytes(first) // sum(len(rows) for _, rows in cuts[0]))
            needed = bytes_a_sample * sum(len(rows) for cut in cuts for _, rows in cut)
            if self.kept_bytes + needed > KEPT_BYTES:
                self._too_large[use] = bytes_a_sample
            else:
                self.kept_bytes += needed
                self._kept[use] = join([first, *(self._advance(shared, cut) for cut in cuts[1:])])
        return self._kept.get(use)

    def _advance(self, shared: Params, cut: _Cut) -> Data:
        data = self._client_data
        assert isinstance(data, SampledData)
        return self._objective.advance(shared, join([data.samples(self.client, part, rows) for part, rows in cut]))

    def _cuts(self, use: _Use) -> list[_Cut]:
        """Cut the rows of a use into pieces, all but the last one full."""
        cuts: list[_Cut] = []
        room = 0
        for part, rows in self._rows(use):
            while len(rows):
                if not room:
                    cuts.append([])
                    room = self._objective.piece_rows
                cuts[-1].append((part, rows[:room]))
                room, rows = room - len(cuts[-1][-1][1]), rows[room:]
        return cuts

    def _rows(self, use: _Use) -> _Cut:
        if use == "training":
            return [("train", torch.arange(self._size("train")))]
        parts = (part for part in self._selection.parts if part != "train" or not self._scores_all_training)
        return [(part, self._selection.rows(part, self.client, self._size(part))) for part in parts]

    @property
    def _scores_all_training(self) -> bool:
        """Whether the scored training samples are those of fine-tuning, and need not be advanced beside them."""
        return "train" in self._selection.parts and self._selection.is_whole(self._size("train"))

    def _size(self, part: Part) -> int:
        assert isinstance(self._client_data, SampledData)
        return self._client_data.part_sizes(part)[self.client]


def _spans(cut: _Cut) -> Spans:
    spans: Spans = []
    first = 0
    for part, rows in cut:
        spans.append((part, slice(first, first + len(rows))))
        first += len(rows)
    return spans


def _is_same(one: Params, other: Params) -> bool:
    # by value: a copy of θ has the same features, and so has nothing, where no parameter comes before the cut
    return one.keys() == other.keys() and all(
        value is other[name] or torch.equal(value, other[name]) for name, value in one.items()
    )
