"""Samples of clients with labels: batches that are drawn, and what scores are computed on."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np
import torch

from ppfl.core.rng import Streams, generator
from ppfl.interfaces.client_data import Joined, LabelledData, Part
from ppfl.interfaces.selection import Selection
from ppfl.interfaces.task import Labels
from ppfl.problems._sample_rows import as_numbers, open_rows
from ppfl.problems._training_samples import TrainingSamples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Data
    from ppfl.interfaces.dataset import FederatedSamples
    from ppfl.interfaces.normalization import Normalization
    from ppfl.interfaces.packed_samples import PackedPart
    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.task import Task
    from ppfl.networks.training import Augmentation
    from ppfl.problems._sample_rows import SampleRows


class SupervisedData(LabelledData):
    """A batch of every client in every round, of B samples, or all that it has. Building is collective."""

    def __init__(
        self,
        samples: FederatedSamples,
        batch_size: int | Literal["all"],
        placement: Placement,
        task: Task,
        normalization: Normalization | None = None,
    ) -> None:
        self.client_names = samples.client_names
        self.num_train_samples = samples.num_train_samples
        self.num_validation_samples = samples.num_validation_samples
        self.num_test_samples = samples.num_test_samples
        self.clients = samples.clients
        self._clusters = samples.clusters
        self._num_own_tokens = samples.num_own_tokens
        self.clients_per_chunk = samples.clients_per_chunk
        self._numbers: Sequence[int] | np.ndarray = range(len(samples.client_names))
        """Of the clients in the data set."""
        self._first = samples.clients.start
        self.labels = _agree_on_labels(samples, placement)
        """What all ranks know of them."""
        self.num_classes = task.num_outputs(self.labels)
        self.label_histogram = _label_histogram(samples, self.num_classes, placement) if task.has_classes else None
        """(M, classes), over all three parts; None where labels are no classes."""
        self._task, self._communicator = task, placement.communicator
        self._seed = placement.seed
        self._dtype, self._device = placement.dtype, placement.device
        self.sample_shape = samples.input_shape if samples.vocabulary_size is None else None
        self._divisor, self._are_tokens = samples.divisor, samples.vocabulary_size is not None
        self._normalization = normalization
        self._batch_size = batch_size
        self.train_with(None, has_keys=False)
        self._batches = Streams(placement.seed, "batch")
        self._parts: dict[Part, PackedPart] = dict(zip(get_args(Part), samples.parts, strict=True))
        stores = {id(pack): open_rows(pack, placement.device) for pack in samples.parts.packs}
        self._stores: dict[Part, SampleRows] = {part: stores[id(of.pack)] for part, of in self._parts.items()}
        self._num_tokens: dict[str, np.ndarray] = {}
        if self._are_tokens and self._counts_positions:
            # here, where all ranks are: facts are asked for on one of them
            of_parts = {part: self.counts(part, Selection())[0] for part in get_args(Part)}
            self._num_tokens = {f"num_{part}_tokens": np.array(of, dtype=np.int64) for part, of in of_parts.items()}

    def train_with(self, augmentation: Augmentation | None, *, has_keys: bool) -> None:
        """Train on images that `augmentation` changes, and on samples with a `key` (S,) int64 where they are wanted."""
        self._training = TrainingSamples(self._seed, augmentation, has_keys)
        self.changes_training = self._training.does_something
        self.fixed_data = self._batch_size == "all" and not self.changes_training

    def of_some(self, chosen: np.ndarray) -> Self:
        """Return some of the clients, ascending numbers of all ranks, as if there were no others: they are numbered
        anew, draws included, and hold the same samples. Labels, and the outputs that they need, stay those of all."""
        some = copy.copy(self)
        some._numbers = chosen
        some.clients = range(*np.searchsorted(chosen, [self.clients.start, self.clients.stop]).tolist())
        some.client_names = tuple(self.client_names[client] for client in chosen.tolist())
        for sizes in ("num_train_samples", "num_validation_samples", "num_test_samples"):
            setattr(some, sizes, tuple(np.array(getattr(self, sizes))[chosen].tolist()))
        if self.label_histogram is not None:
            some.label_histogram = self.label_histogram[chosen]
        some._num_tokens = {name: of_all[chosen] for name, of_all in self._num_tokens.items()}
        for facts in ("_clusters", "_num_own_tokens"):
            if (of_all := getattr(self, facts)) is not None:
                setattr(some, facts, tuple(np.array(of_all)[chosen].tolist()))
        return some

    def data(self, client: int, round: int) -> Data:
        """Draw min(B, S) of the S training samples without replacement, keyed (seed, round, client).

        All of them, in their order, when B ≥ S.
        """
        data = self.unchanged(client, round)
        return self._training.of_round(data, [client], [len(data["y"])], round)

    def unchanged(self, client: int, round: int) -> Data:
        """Return the same samples as they are stored, which is how they are scored."""
        return self._decode(*self._stores["train"].take(self._batch(client, round)))

    def joined(self, clients: Sequence[int], round: int) -> Joined:
        """Return `data` of several clients together: one gather for all of them."""
        rows = [as_numbers(self._batch(client, round)) for client in clients]
        data, sizes = self._decode(*self._stores["train"].take_all(rows)), [len(of_client) for of_client in rows]
        return Joined(self._training.of_round(data, clients, sizes, round), sizes)

    def epoch_rows(self, client: int, epoch: int) -> list[torch.Tensor]:
        """Return all training samples in batches of B, the last possibly smaller; order keyed (seed, epoch, client)."""
        return [rows.to(self._device) for rows in self._epoch(client, epoch)]

    def training_epoch(self, client: int, epoch: int) -> list[Data]:
        """Return the batches that `epoch_rows` says, as they are trained on."""
        batches = []
        for number, rows in enumerate(self._epoch(client, epoch)):
            batch = self.samples(client, "train", rows)
            batches.append(self._training.of_epoch(batch, client, epoch, number))
        return batches

    def client_facts(self) -> dict[str, np.ndarray]:
        """Return the sizes of the parts, (M,), and over all three parts the label histogram, (M, classes), where labels
        are classes; of tokens how many of each part are labels that count, and where some are clients' own how many
        are, (M,); and the clusters of a shift, (M,)."""
        some = {"cluster": self._clusters, "num_own_tokens": self._num_own_tokens}
        of_all = {name: np.array(of, dtype=np.int64) for name, of in some.items() if of is not None}
        histogram = {} if self.label_histogram is None else {"label_histogram": self.label_histogram}
        return {
            **histogram,
            **self._num_tokens,
            **of_all,
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
        of_client = as_numbers(self._rows(part, client))
        return self._decode(*self._stores[part].take(of_client[rows.cpu().numpy()]))

    def counts(self, part: Part, selection: Selection) -> list[tuple[int, ...]]:
        """Return what counts in the denominators of scores of what is selected of a part, of all M clients, one tuple a
        kind: samples, unless the task counts otherwise. Collective then."""
        sizes = self.part_sizes(part)
        if not self._counts_positions:
            return [selection.weights(sizes)]
        y, found = self._parts[part].pack.y, []
        there = selection.clients_in(self.clients)
        for client in self.clients:
            rows = selection.rows(part, client, sizes[client]).numpy() if client in there else np.empty(0, np.int64)
            found.append(self._counts_of(y[as_numbers(self._rows(part, client))[rows]]))
        mine = np.array(found, dtype=np.int64).reshape(len(found), len(self._counts_of(y[:0])))
        return [tuple(kind) for kind in self._communicator.allgather_rows(torch.from_numpy(mine)).T.tolist()]

    def count_others(self, part: Part, selection: Selection, target: int) -> tuple[int, ...]:
        """Return how many of what is selected of a part are not of a class, of all M clients. Collective."""
        y, there = self._parts[part].pack.y, set(selection.clients_in(self.clients))
        mine = torch.zeros(len(self.clients), dtype=torch.int64)
        for number, client in enumerate(self.clients):
            if client in there:
                rows = selection.rows(part, client, self.part_sizes(part)[client]).numpy()
                mine[number] = int((y[as_numbers(self._rows(part, client))[rows]] != target).sum())
        return tuple(self._communicator.allgather_rows(mine[:, None])[:, 0].tolist())

    @property
    def _counts_positions(self) -> bool:
        return self._task.counts(self._parts["train"].pack.y[:0]) is not None

    def _counts_of(self, labels: np.ndarray) -> np.ndarray:
        counts = self._task.counts(labels)
        assert counts is not None
        return counts

    def _epoch(self, client: int, epoch: int) -> list[torch.Tensor]:
        # on the host, where samples are looked up
        size = self.num_train_samples[client]
        order = generator(self._seed, "tuned epoch", round=epoch, client=client).permutation(size)
        return list(torch.split(torch.from_numpy(order), self._size_of_batch(size))) if size else []

    def _rows(self, part: Part, client: int) -> slice | np.ndarray:
        """Return where a part of a client's samples lies in its pack."""
        number = int(self._numbers[client])
        return self._parts[part].rows(number, number - self._first)

    def _batch(self, client: int, round: int) -> slice | np.ndarray:
        """Return the rows of the pack that a client computes on in a round."""
        rows, num_samples = self._trained_on(client, round)
        size = self._size_of_batch(num_samples)
        if size == num_samples:
            return rows
        # in the order drawn, not sorted: the order of samples is part of the bits of a batch
        drawn: np.ndarray = self._batches.at(round, client).choice(num_samples, size, replace=False)
        chosen: np.ndarray = rows.start + drawn if isinstance(rows, slice) else rows[drawn]
        return chosen

    def _trained_on(self, client: int, round: int) -> tuple[slice | np.ndarray, int]:
        """Return the rows of the pack that a batch of this round is drawn from, and how many they are."""
        return self._rows("train", client), self.num_train_samples[client]

    def _size_of_batch(self, num_samples: int) -> int:
        return num_samples if self._batch_size == "all" else min(self._batch_size, num_samples)

    def _decode(self, x: torch.Tensor, y: torch.Tensor) -> Data:
        y = y.to(self._dtype) if y.is_floating_point() else y
        if self._are_tokens:
            return {"x": x.to(torch.int64, copy=True), "y": y}
        # division makes fresh memory, so that neither alignment nor the next use depends on where the rows lie
        x = x.to(self._dtype) / self._divisor
        return {"x": x if self._normalization is None else self._normalization.applied(x), "y": y}


def _agree_on_labels(samples: FederatedSamples, placement: Placement) -> Labels:
    """Look at the labels of all parts of all clients. Collective."""
    labels = [pack.y for pack in samples.parts.packs]
    is_floating = any(y.dtype.kind == "f" for y in labels)
    # of all ranks: the model must have the same logits everywhere, also where a rank's clients lack a class
    mine = torch.tensor([0 if is_floating else max(int(y.max(initial=0)) for y in labels), int(is_floating)])
    largest, of_any = placement.communicator.allreduce(mine, "max").tolist()
    return Labels(
        samples.labels_from,
        samples.label_shape,
        bool(of_any),
        largest,
        samples.vocabulary_size,
        samples.special_ids,
    )


def _label_histogram(samples: FederatedSamples, num_classes: int, placement: Placement) -> np.ndarray:
    """Count the labels of every client over its three parts, (M, classes) int64. Collective."""
    first, *others = samples.parts.packs
    mine = first.count_labels(num_classes)
    for pack in others:
        mine += pack.count_labels(num_classes)
    return placement.communicator.allgather_rows(torch.from_numpy(mine)).numpy()
