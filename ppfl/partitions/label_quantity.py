"""A few classes for each client, whose samples its owners share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from ppfl.core.rng import generator
from ppfl.interfaces.partition import Partition, fill_up, refuse_numbers

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class LabelQuantity(Partition):
    """Client m owns class m mod C and k − 1 others at random; the samples of a class are dealt at random to its owners,
    in numbers that differ by at most one.

    A class that nobody owns yet is drawn before others, so that all samples are dealt; a client that would be empty,
    because a class has fewer samples than owners, gets one of the largest client.
    Source: Li, Diao, Chen, He, ICDE 2022, quantity-based label imbalance, "#C = k".
    """

    name: Literal["label_quantity"]
    example: ClassVar[Example] = {"clients": 6, "labels_per_client": 2}
    labels_per_client: PositiveInt
    """k; all classes where there are fewer."""

    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return for each client the ascending indices of its samples."""
        self.check(len(labels))
        refuse_numbers(labels, self.name)
        classes = np.unique(labels)
        if self.clients * self.labels_per_client < len(classes):
            raise ValueError(
                f"the partition {self.name} with {self.clients} clients of {self.labels_per_client} labels leaves some "
                f"of the {len(classes)} classes to nobody; take more clients or labels"
            )
        random = generator(seed, "partition")
        owners = self._owners(len(classes), random)
        hands: list[list[int]] = [[] for _ in range(self.clients)]
        for label, of_label in zip(classes, owners, strict=True):
            members = random.permutation(np.flatnonzero(labels == label))
            # owners in a random order, so that what is left over does not go to the first ones always
            for client, piece in zip(random.permutation(of_label), np.array_split(members, len(of_label)), strict=True):
                hands[client].extend(piece.tolist())
        fill_up(hands, 1)
        return [np.sort(np.array(hand, dtype=np.int64)) for hand in hands]

    def _owners(self, num_classes: int, random: np.random.Generator) -> list[list[int]]:
        """Return the clients that own each class."""
        owners: list[list[int]] = [[] for _ in range(num_classes)]
        for client in range(self.clients):
            owners[client % num_classes].append(client)
        for client in range(self.clients):
            others = [label for label in random.permutation(num_classes).tolist() if label != client % num_classes]
            # stable: those that somebody owns stay in the order drawn
            others.sort(key=lambda label: bool(owners[label]))
            for label in others[: self.labels_per_client - 1]:
                owners[label].append(client)
        return owners
