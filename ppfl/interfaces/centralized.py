"""Data sets without clients: pools of samples that a partition deals to some."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from ppfl.core.agree import on_every_rank
from ppfl.core.errors import UserError
from ppfl.core.host_memory import shared_by
from ppfl.core.plugins import ChosenFrom, refusal
from ppfl.core.rng import generator
from ppfl.interfaces.dataset import (
    CUT,
    MAX_NUM_CLASSES,
    ClientSamples,
    Dataset,
    FederatedSamples,
    Parts,
    Samples,
    deal,
    refuse_parts,
)  # fmt: skip
from ppfl.interfaces.file_or_fraction import parts_beside
from ppfl.interfaces.partition import Hands, Partition, Pool
from ppfl.interfaces.usable_numbers import divisor_of, impossible_rows, largest_number, unusable_rows

if TYPE_CHECKING:
    import torch

    from ppfl.interfaces.placement import Placement


class PooledDataset(Dataset):
    """A data set whose samples belong to nobody until a partition gives them to clients.

    Every rank reads all samples, and keeps those of its clients. Where the data set has samples of its own to test on,
    these are dealt too, so that a client has of each label the same part of them as of those to train on. A reader says
    how parts are cut, and reads both:

    >>> from typing import Literal
    >>> import numpy as np
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.interfaces.centralized import PooledDataset
    >>> from ppfl.interfaces.dataset import Parts, Samples
    >>> from ppfl.interfaces.partition import Pool
    >>> from ppfl.interfaces.placement import Placement
    >>> class Coins(PooledDataset):
    ...     name: Literal["coins"]
    ...
    ...     @property
    ...     def parts(self):
    ...         return Parts(test=0.0, validation=0.1)
    ...
    ...     def pools(self, field):
    ...         heads, tails = (Samples(np.eye(2)[y], y) for y in (np.arange(40) % 2, np.arange(8) % 2))
    ...         return Pool(heads, "coins to train on"), Pool(tails, "coins to test on")
    >>> coins = Coins.model_validate({"name": "coins", "partition": {"name": "iid", "clients": 2}})
    >>> here = Placement(SoloCommunicator(), 0, 0, torch.float32, torch.device("cpu"))
    >>> samples = coins.load(here, clients_per_chunk=1)
    >>> samples.num_train_samples, samples.num_validation_samples, samples.num_test_samples
    ((18, 18), (2, 2), (4, 4))
    """

    num_samples: ClassVar[int] = 0
    """S, where it is known before anything is read, so that a partition that does not fit is refused at once."""
    partition: Annotated[Partition, ChosenFrom("ppfl.partitions")]
    """Which client gets which samples."""

    @field_validator("partition")
    @classmethod
    def _partition_fits(cls, partition: Partition) -> Partition:
        if cls.num_samples:
            try:
                partition.check(cls.num_samples)
            except ValueError as error:
                raise refusal("clients", f"few enough clients; {error}") from error
        return partition

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Self:
        refuse_parts(self.parts)
        return self

    @property
    @abstractmethod
    def parts(self) -> Parts:
        """How the samples of a client are cut; nothing of them is for testing where there are samples for that."""

    @abstractmethod
    def pools(self, field: str | None) -> tuple[Pool, Pool | None]:
        """Read the samples to train on, and those to test on where there are some.

        field: what `Pool.field` is to have. Raises UserError for files that cannot be used, and have no such field.
        """

    def divided_by(self, stored: np.dtype) -> float:
        """Return what x of this type are divided by to lie in [0, 1]; 1 when they are used as they are."""
        return 1.0

    def fitted(self, pool: Pool, tests: Pool | None, in_training: np.ndarray) -> tuple[Pool, Pool | None]:
        """Return samples as models are to see them, where that depends on those that are trained on.

        in_training: (S,) bool, which of the pool these are.
        """
        return pool, tests

    @property
    def is_fitted(self) -> bool:
        """Whether `fitted` does something."""
        return False

    def load(self, placement: Placement, clients_per_chunk: int | None) -> FederatedSamples:
        """Read all samples on every rank, and keep those of its own clients. Collective.

        Raises UserError for files that cannot be used, for NaN, and where the partition does not suit the samples.
        """
        from ppfl.core.communicator import ranks_of_host

        # each of the ranks of a host reads everything, at the same time
        with shared_by(ranks_of_host(placement.communicator)):
            return on_every_rank(placement.communicator, lambda: self._deal(placement, clients_per_chunk))

    def _deal(self, placement: Placement, clients_per_chunk: int | None) -> FederatedSamples:
        seed, parts = placement.data_seed, self.parts
        pool, tests = self.pools(self.partition.field_needed)
        _refuse_unusable(pool, tests, placement.dtype)
        try:
            hands = self.partition.deal(pool, tests, seed)
        except ValueError as error:
            raise UserError(f"problem.dataset.partition: {error}") from error
        labels_from = pool.where
        if self.is_fitted:
            pool, tests = self.fitted(pool, tests, _in_training(hands, parts, len(pool.samples), seed))
            _refuse_unusable(pool, tests, placement.dtype)
        samples, divisor = pool.samples, self.divided_by(pool.samples.x.dtype)
        sizes = [parts.num_samples(len(of_client)) for of_client in hands.rows]
        if hands.test_rows is not None:
            of_test = [len(of_client) for of_client in hands.test_rows]
            sizes = [(*size[:2], number) for size, number in zip(sizes, of_test, strict=True)]

        def of_client(client: int) -> ClientSamples:
            cut = parts.cut(samples.take(hands.rows[client]), seed, client)
            if tests is not None and hands.test_rows is not None:
                cut = cut._replace(test=tests.samples.take(hands.test_rows[client]))
            return cut

        return deal(
            placement, clients_per_chunk, hands.names, sizes, of_client, samples.x.shape[1:], divisor,
            label_shape=samples.y.shape[1:], labels_from=labels_from,
        )  # fmt: skip


class CentralizedDataset(PooledDataset):
    """A data set without clients, whose samples a partition gives to some.

    It says how many samples it has, and reads them; every rank reads all of them and keeps those of its clients:

    >>> from typing import ClassVar, Literal
    >>> import numpy as np
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.interfaces.centralized import CentralizedDataset
    >>> from ppfl.interfaces.dataset import Samples
    >>> from ppfl.interfaces.placement import Placement
    >>> class Steps(CentralizedDataset):
    ...     name: Literal["steps"]
    ...     num_samples: ClassVar[int] = 100
    ...
    ...     def read(self):
    ...         x = np.arange(100.0)[:, None]
    ...         return Samples(x, (x[:, 0] >= 50).astype(np.int64))
    >>> section = {"name": "steps", "partition": {"name": "iid", "clients": 4}, "test": 0.2, "validation": 0.0}
    >>> here = Placement(SoloCommunicator(), 0, 0, torch.float32, torch.device("cpu"))
    >>> samples = Steps.model_validate(section).load(here, clients_per_chunk=1)
    >>> samples.client_names, samples.num_train_samples, samples.input_shape
    (('0', '1', '2', '3'), (20, 20, 20, 20), (1,))
    """

    divisor: ClassVar[float] = 1.0
    """What the stored x are divided by to lie in [0, 1]; 1 when they are used as they are."""

    test: float = Field(default=0.2, ge=0, lt=1)
    """Fraction of each client's samples kept for testing, rounded down."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of each client's samples kept for choosing hyperparameters, rounded down."""

    @abstractmethod
    def read(self) -> Samples:
        """Return all samples: x as the model is to see it, or uint8 to be divided by `divisor`; y int64."""

    @property
    def parts(self) -> Parts:
        """As the fractions say."""
        return Parts(self.test, self.validation)

    def divided_by(self, stored: np.dtype) -> float:
        """Return `divisor`."""
        return self.divisor

    def pools(self, field: str | None) -> tuple[Pool, Pool | None]:
        """Return all samples, which have no fields beside their labels."""
        refuse_field(field, f"the data set {self.name}", ())
        return Pool(self.read(), "problem.dataset"), None


class FilesDataset(PooledDataset):
    """Samples of published files without clients: `train`, and `test`, which are files of the same kind or a fraction.

    A reader declares both, and reads them:

    >>> from typing import Annotated, Literal
    >>> import numpy as np
    >>> import torch
    >>> from pydantic import Discriminator, Tag
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.core.data_file import DataFile
    >>> from ppfl.interfaces.centralized import FilesDataset
    >>> from ppfl.interfaces.dataset import Samples
    >>> from ppfl.interfaces.file_or_fraction import Fraction, file_or_fraction
    >>> from ppfl.interfaces.partition import Pool
    >>> from ppfl.interfaces.placement import Placement
    >>> class Letters(FilesDataset):
    ...     name: Literal["letters"]
    ...     train: DataFile
    ...     test: Annotated[Annotated[DataFile, Tag("file")] | Fraction, Discriminator(file_or_fraction)] = 0.2
    ...
    ...     def pools(self, field):
    ...         return self.pool(self.train), None if isinstance(self.test, float) else self.pool(self.test)
    ...
    ...     def pool(self, file):
    ...         x = np.frombuffer(file.path.read_bytes(), np.uint8)[:, None]
    ...         return Pool(Samples(x, (x[:, 0] >= 97).astype(np.int64)), f"problem.dataset: {file.path}")
    >>> section = {"name": "letters", "train": np.__file__, "partition": {"name": "iid", "clients": 2}}
    >>> here = Placement(SoloCommunicator(), 0, 0, torch.float32, torch.device("cpu"))
    >>> samples = Letters.model_validate(section).load(here, clients_per_chunk=1)
    >>> samples.client_names, samples.divisor, samples.samples[0].test.x.dtype
    (('0', '1'), 255.0, dtype('uint8'))
    """

    test: Any = 0.2
    """Samples to test on; or, without them, the fraction of each client's samples, rounded down."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of each client's samples to train on kept for choosing hyperparameters, rounded down."""

    @property
    def parts(self) -> Parts:
        """Nothing for testing where there is a file for that."""
        return parts_beside(self.test, self.validation)

    def divided_by(self, stored: np.dtype) -> float:
        """Return 255 for bytes."""
        return divisor_of(stored)


def refuse_field(field: str | None, where: str, known: tuple[str, ...]) -> None:
    """Raise UserError where a partition goes by a field that there is not."""
    if field is not None and field not in known:
        allowed = ", ".join(known) or "none: take another partition"
        raise UserError(f"problem.dataset.partition.field: is {field!r}; {where} has no such field; allowed: {allowed}")


def _in_training(hands: Hands, parts: Parts, num_samples: int, seed: int) -> np.ndarray:
    """Return which samples of a pool clients train on, (S,) bool; of the clients of all ranks."""
    found = np.zeros(num_samples, dtype=bool)
    for client, rows in enumerate(hands.rows):
        train, _, _ = parts.rows(len(rows), generator(seed, CUT, client=client))
        found[rows[train]] = True
    return found


def _refuse_unusable(pool: Pool, tests: Pool | None, precision: torch.dtype) -> None:
    """Raise UserError for NaN, inf and what is beyond the numbers of the run, and for classes that are none."""
    for one in (pool, tests):
        if one is not None:
            _refuse_numbers(one, precision)


def _refuse_numbers(pool: Pool, precision: torch.dtype) -> None:
    x, y = pool.samples.x, pool.samples.y
    if not len(y):
        raise UserError(f"{pool.where}: has no samples; one is needed at least")
    for what, numbers in (("a number", x), ("a label", y)):
        largest = largest_number(numbers.dtype, precision)
        if len(rows := unusable_rows(numbers, largest)):
            raise UserError(
                f"{pool.where}: sample {rows[0]} has {what} that is NaN, inf or beyond {largest:.3g}; all must be "
                f"finite in the precision of the run"
            )
    if y.dtype.kind != "f" and len(impossible_rows(y, MAX_NUM_CLASSES)):
        raise UserError(
            f"{pool.where}: labels range from {y.min()} to {y.max()}; allowed are 0 to {MAX_NUM_CLASSES - 1}"
        )
