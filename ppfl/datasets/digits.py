"""Handwritten digits that ship with scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from ppfl.core.dataset import Dataset, FederatedSamples, Partition, Parts, Samples
from ppfl.core.plugins import ChosenFrom, refusal

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.problem import Placement

NUM_SAMPLES = 1797
_GREY_LEVELS = 16.0


class Digits(Dataset):
    """1797 grey images (1, 8, 8) of 10 digits, scaled to [0, 1], split over clients by a partition.

    Source: Alpaydin & Kaynak, UCI Optical Recognition of Handwritten Digits (its test part), through
    `sklearn.datasets.load_digits`.
    """

    name: Literal["digits"]
    example: ClassVar[Example] = {"partition": {"name": "iid", "clients": 6}}
    partition: Annotated[Partition, ChosenFrom("ppfl.partitions")]
    """Which client gets which images."""
    test: float = Field(default=0.2, ge=0, lt=1)
    """Fraction of each client's images kept for testing, rounded down."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of each client's images kept for choosing hyperparameters, rounded down."""

    @field_validator("partition")
    @classmethod
    def _partition_fits(cls, partition: Partition) -> Partition:
        try:
            partition.check(NUM_SAMPLES)
        except ValueError as error:
            raise refusal("clients", f"few enough clients; {error}") from error
        return partition

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Digits:
        if self.test + self.validation >= 1:
            raise refusal("validation", f"less than 1 − test = {1 - self.test:g}")
        return self

    def load(self, placement: Placement, clients_per_chunk: int) -> FederatedSamples:
        """Load all images on every rank (115 kB) and keep those of its own clients."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        # grey levels are 0 to 16, and a byte holds them exactly
        everything = Samples(images.reshape(-1, 1, 8, 8).astype(np.uint8), labels.astype(np.int64))
        parts = Parts(self.test, self.validation)
        hands = self.partition.assign(everything.y, placement.data_seed)
        sizes = [parts.num_samples(len(hand)) for hand in hands]
        mine = placement.clients_of_rank([size[0] for size in sizes], clients_per_chunk)
        digits = len(str(len(hands) - 1))
        return FederatedSamples(
            client_names=tuple(f"{client:0{digits}d}" for client in range(len(hands))),
            num_train_samples=tuple(size[0] for size in sizes),
            num_validation_samples=tuple(size[1] for size in sizes),
            num_test_samples=tuple(size[2] for size in sizes),
            clients=mine,
            samples={client: parts.cut(everything.take(hands[client]), placement.data_seed, client) for client in mine},
            input_shape=(1, 8, 8),
            divisor=_GREY_LEVELS,
        )
