"""Samples of clients with class labels: batches that are drawn, and what scores are computed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from ppfl.core.rng import Streams, generator
from ppfl.interfaces.client_data import Joined, LabelledData, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Data
    from ppfl.interfaces.dataset import FederatedSamples, Samples
    from ppfl.interfaces.placement import Placement


class SupervisedData(LabelledData):
    """A batch of every client in every round, of B samples, or all that it has. Building is collective."""

    def __init__(self, samples: FederatedSamples, batch_size: int | Literal["all"], placement: Placement) -> None:
        self.client_names = samples.client_names
        self.num_train_samples = samples.num_train_samples
        self.num_validation_samples = samples.num_validation_samples
        self.num_test_samples = samples.num_test_samples
        self.clients = samples.clients
        self.fixed_data = batch_size == "all"
        self.num_classes = _agree_on_num_classes(samples, placement)
        self.label_histogram = _label_histogram(samples, self.num_classes, placement)
        """(M, classes), over all three parts."""
        self._seed = placement.seed
        self._dtype, self._device = placement.dtype, placement.device
        self._divisor = samples.divisor
        self._batch_size = batch_size
        self._batches = Streams(placement.seed, "batch")
        self._packs: dict[Part, _Pack] = {
            part: _Pack([getattr(samples.samples[m], part) for m in samples.clients], samples, placement.device)
            for part in get_args(Part)
        }

    def data(self, client: int, round: int) -> Data:
        """Draw min(B, S) of the S training samples without replacement, keyed (seed, round, client).

        All of them, in their order, when B ≥ S.
        """
        train = self._packs["train"]
        rows = self._batch_rows(client, round)
        return self._decode(train, train.span(client) if rows is None else self._on_device(rows))

    def joined(self, clients: Sequence[int], round: int) -> Joined:
        """Return `data` of several clients together: one gather for all of them."""
        train = self._packs["train"]
        of_each = [self._batch_rows(client, round) for client in clients]
        rows = [train.rows(client) if drawn is None else drawn for client, drawn in zip(clients, of_each, strict=True)]
        return Joined(
            self._decode(train, self._on_device(np.concatenate(rows))), [len(of_client) for of_client in rows]
        )

    def epoch_rows(self, client: int, epoch: int) -> list[torch.Tensor]:
        """Return all training samples in batches of B, the last possibly smaller; order keyed (seed, epoch, client)."""
        size = self.num_train_samples[client]
        order = generator(self._seed, "tuned epoch", round=epoch, client=client).permutation(size)
        rows = torch.from_numpy(order).to(self._device)
        return list(torch.split(rows, self._size_of_batch(size))) if size else []

    def client_facts(self) -> dict[str, np.ndarray]:
        """Return the label histogram over all three parts, (M, classes), and the sizes of the parts, (M,)."""
        return {
            "label_histogram": self.label_histogram,
            "num_train_samples": np.array(self.num_train_samples, dtype=np.int64),
            "num_validation_samples": np.array(self.num_validation_samples, dtype=np.int64),
            "num_test_samples": np.array(self.num_test_samples, dtype=np.int64),
        }

    def part_sizes(self, part: Part) -> tuple[int, ...]:
        """Return how many samples every client of all ranks has in a part."""
        sizes = {"train": self.num_train_samples, "validation": self.num_validation_samples}
        return sizes.get(part, self.num_test_samples)

    def samples(self, client: int, part: Part, rows: torch.Tensor) -> Data:
        """Return some samples of a client of this rank."""
        pack = self._packs[part]
        return self._decode(pack, rows.to(self._device) + pack.span(client).start)

    def _batch_rows(self, client: int, round: int) -> np.ndarray | None:
        """Return the rows of the pack that a client computes on in a round; None: all that it has, in their order."""
        span = self._packs["train"].span(client)
        num_samples = span.stop - span.start
        size = self._size_of_batch(num_samples)
        if size == num_samples:
            return None
        # in the order drawn, not sorted: the order of samples is part of the bits of a batch
        drawn: np.ndarray = span.start + self._batches.at(round, client).choice(num_samples, size, replace=False)
        return drawn

    def _size_of_batch(self, num_samples: int) -> int:
        return num_samples if self._batch_size == "all" else min(self._batch_size, num_samples)

    def _on_device(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(rows).to(self._device)

    def _decode(self, pack: _Pack, rows: torch.Tensor | slice) -> Data:
        if isinstance(rows, slice):
            x, y = pack.x[rows], pack.y[rows].clone()
        else:
            x, y = pack.x.index_select(0, rows), pack.y.index_select(0, rows)
        # division makes fresh memory, so that neither alignment nor the next use depends on where the rows lie
        return {"x": x.to(self._dtype) / self._divisor, "y": y}


class _Pack:
    """One part of all clients of this rank, one client after another, x as compact as they came (uint8 stays uint8)."""

    def __init__(self, samples: Sequence[Samples], of: FederatedSamples, device: torch.device) -> None:
        # an empty one, which says shape and number type where a rank has no clients
        x = [one.x for one in samples] or [np.empty((0, *of.input_shape), np.uint8)]
        self.x = torch.from_numpy(np.concatenate(x)).to(device)
        self.y = torch.from_numpy(np.concatenate([one.y for one in samples] or [np.empty(0, np.int64)])).to(device)
        self._first_client = of.clients.start
        self._ends = np.cumsum([0, *map(len, samples)]).tolist()

    def span(self, client: int) -> slice:
        """Return which rows are a client's."""
        index = client - self._first_client
        return slice(self._ends[index], self._ends[index + 1])

    def rows(self, client: int) -> np.ndarray:
        """Return the same as numbers, (S,) int64."""
        span = self.span(client)
        return np.arange(span.start, span.stop)


def _agree_on_num_classes(samples: FederatedSamples, placement: Placement) -> int:
    """Return 1 + the largest label of any part of any client. Collective."""
    # of all ranks: the model must have the same logits everywhere, also where a rank's clients lack a class
    largest = [int(part.y.max()) for parts in samples.samples.values() for part in parts if len(part)]
    mine = torch.tensor([max(largest, default=0)])
    return int(placement.communicator.allreduce(mine, "max")) + 1


def _label_histogram(samples: FederatedSamples, num_classes: int, placement: Placement) -> np.ndarray:
    """Count the labels of every client over its three parts, (M, classes) int64. Collective."""
    mine = np.zeros((len(samples.clients), num_classes), dtype=np.int64)
    for row, client in zip(mine, samples.clients, strict=True):
        labels = np.concatenate([part.y for part in samples.samples[client]])
        row[:] = np.bincount(labels, minlength=num_classes)
    return placement.communicator.allgather_rows(torch.from_numpy(mine)).numpy()
