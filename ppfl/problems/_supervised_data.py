"""Samples of clients with class labels: batches that are drawn, and what scores are computed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from ppfl.core.rng import generator
from ppfl.interfaces.client_data import LabelledData, Part

if TYPE_CHECKING:
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
        self._stored: dict[Part, dict[int, _Stored]] = {
            part: {m: _Stored(getattr(s, part), placement.device) for m, s in samples.samples.items()}
            for part in get_args(Part)
        }

    def data(self, client: int, round: int) -> Data:
        """Draw min(B, S) of the S training samples without replacement, keyed (seed, round, client).

        All of them, in their order, when B ≥ S.
        """
        train = self._stored["train"][client]
        size = self._size_of_batch(len(train))
        rows: torch.Tensor | slice = slice(None)
        if size < len(train):
            draw = generator(self._seed, "batch", round=round, client=client).choice(len(train), size, replace=False)
            # in the order drawn, not sorted: the order of samples is part of the bits of a batch
            rows = torch.from_numpy(draw).to(self._device)
        return self._decode(train, rows)

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
        return self._decode(self._stored[part][client], rows.to(self._device))

    def _size_of_batch(self, num_samples: int) -> int:
        return num_samples if self._batch_size == "all" else min(self._batch_size, num_samples)

    def _decode(self, stored: _Stored, rows: torch.Tensor | slice) -> Data:
        x = stored.x[rows].to(self._dtype)
        # division makes fresh memory, so that neither alignment nor the next use depends on where the rows lie
        return {"x": x / self._divisor, "y": stored.y[rows].clone()}


class _Stored:
    """Samples of one part of one client, x as compact as they came (uint8 stays uint8)."""

    def __init__(self, samples: Samples, device: torch.device) -> None:
        self.x = torch.from_numpy(samples.x).to(device)
        self.y = torch.from_numpy(samples.y).to(device)

    def __len__(self) -> int:
        return len(self.y)


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
