"""Federated data sets in HDF5, in the layout of the public ones."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal
from weakref import finalize

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from ppfl.core.agree import on_every_rank
from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.core.host_memory import free_host_bytes
from ppfl.datasets._chosen_clients import Clients, Sizes, chosen, most_samples
from ppfl.datasets._flat_file import FLAT_LAYOUT, OFFSETS, FlatFile
from ppfl.datasets._grouped_file import GROUPED_LAYOUT, GroupedClients
from ppfl.datasets._sample_file import LABEL
from ppfl.interfaces.dataset import (
    ClientSamples,
    Dataset,
    FederatedSamples,
    LazyParts,
    Parts,
    deal,
    refuse_parts,
)  # fmt: skip
from ppfl.interfaces.file_or_fraction import Fraction, file_or_fraction, parts_beside
from ppfl.interfaces.packed_samples import PackedPart, PackedParts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.plugins import Example
    from ppfl.datasets._sample_file import ClientsOfFile, SampleFile
    from ppfl.interfaces.placement import Placement

_USABLE = 0.5
"""Part of the free memory that the samples of a rank may take; where they need more, they stay in their file."""


class FederatedHDF5(Dataset):
    """Images or feature vectors of clients, in the order of their names, in one of two layouts that files tell by
    themselves: examples/<client>/{pixels or image, label}, where other fields are left alone; or flat, with the samples
    of all clients in `samples` or `pixels` and `label`, those of client n in rows offsets[n] to offsets[n + 1] − 1, and
    its name at client[n].

    Samples are (S, height, width), (S, height, width, channels) or (S, features), uint8 (scaled to [0, 1]) or floating
    point (used as they are), in any byte order, and finite in the precision of the run. A client that only one of the
    two files names has no samples in the other. Labels are classes; with a group a client also floating point, (S,) or
    (S, numbers), for regression.
    Source of the layout: the HDF5 files of TensorFlow Federated's simulation data sets.
    """

    name: Literal["federated_hdf5"]
    example: ClassVar[Example] = {"train": "train.h5", "test": "test.h5"}
    silent: ClassVar[frozenset[str]] = frozenset({"label", "clients"})
    train: DataFile
    """File of the samples to train on, from which validation samples are taken."""
    test: Annotated[Annotated[DataFile, Tag("file")] | Fraction, Discriminator(file_or_fraction)] = 0.2
    """File of the samples to test on; or, without one, the fraction of each client's samples, rounded down."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of each client's samples in `train` kept for choosing hyperparameters, rounded down."""
    label: Annotated[str, Field(min_length=1, pattern=r"^[^/]+$")] = LABEL
    """What labels are called in the files, `coarse_label` for the 20 superclasses of CIFAR-100."""
    clients: Clients | None = None
    """Who takes part; null: all clients of the files."""

    @model_validator(mode="after")
    def _something_to_train_on(self) -> FederatedHDF5:
        refuse_parts(parts_beside(self.test, self.validation))
        return self

    def load(self, placement: Placement, clients_per_chunk: int | None) -> FederatedSamples:
        """Read the layout of all clients and the samples of this rank's own. Collective.

        Raises UserError for files without this layout, fields that are missing or disagree, impossible labels, NaN.
        """
        usable_bytes = _usable_bytes(placement)
        return on_every_rank(placement.communicator, lambda: self._read(placement, clients_per_chunk, usable_bytes))

    def _read(self, placement: Placement, clients_per_chunk: int | None, usable_bytes: float) -> FederatedSamples:
        with ExitStack() as stack:
            parts = parts_beside(self.test, self.validation)
            train, test = self._look_at(stack, parts, placement.data_seed)
            if test is not None:
                train.check_agrees(test)
            if isinstance(train, FlatFile) and isinstance(test, FlatFile | None):
                found = _packed(train, test, parts, placement, clients_per_chunk, usable_bytes)
                if any(not isinstance(pack.x, np.ndarray) for pack in found.parts.packs):
                    # samples that are read later need their files for as long as there is somebody to ask for them
                    finalize(found.parts.train.pack.x, stack.pop_all().close)
                return found
            return _client_by_client(train, test, parts, placement, clients_per_chunk)

    def _look_at(self, stack: ExitStack, parts: Parts, seed: int) -> tuple[SampleFile, SampleFile | None]:
        """Open the files until the stack unwinds, and check the layout of the clients that take part."""
        train = _open(self.train, "train", self.label, stack)
        test = _open(self.test, "test", self.label, stack) if isinstance(self.test, DataFile) else None

        def sizes_of(name: str) -> Sizes:
            if test is not None:
                return Sizes(train.count(name), test.count(name))
            num_train, num_validation, num_test = parts.num_samples(train.count(name))
            return Sizes(num_train + num_validation, num_test)

        names: Sequence[str] = train.names
        if test is not None and test.names != names:
            names = sorted({*names, *test.names})
        names, most = chosen(self.clients, names, sizes_of, seed), most_samples(self.clients)
        return train.look_at(names, most), None if test is None else test.look_at(names, most)


def _usable_bytes(placement: Placement) -> float:
    """Return what the samples of this rank may take of the memory that the ranks of a host share. Collective."""
    import torch

    from ppfl.core.communicator import ranks_of_host

    communicator, device = placement.communicator, placement.device
    sharers = ranks_of_host(communicator)
    free = free_host_bytes()
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    return _USABLE * free / sharers


def _open(data_file: DataFile, key: str, label: str, stack: ExitStack) -> ClientsOfFile:
    """Open a file until the stack unwinds, in the layout that it has."""
    from ppfl.interfaces.data_hdf5 import open_data

    where = f"problem.dataset.{key}: {data_file.path}"
    root = stack.enter_context(open_data(data_file.path, where))
    examples = root.group("examples", f"{where}, examples")
    if examples is not None:
        return GroupedClients.of(examples, where, label)
    if OFFSETS not in root.names():
        raise UserError(f"{where} has no clients; {GROUPED_LAYOUT}; {FLAT_LAYOUT}")
    return FlatFile.of(root, data_file.path, where, label)


def _client_by_client(
    train: SampleFile, test: SampleFile | None, parts: Parts, placement: Placement, clients_per_chunk: int | None
) -> FederatedSamples:
    num_train, num_test = train.sizes(), test.sizes() if test is not None else {}
    # by name, not in the order of the file, so that a copy written in another order is the same problem
    names = sorted({*num_train, *num_test})
    sizes = [parts.num_samples(num_train.get(name, 0)) for name in names]
    if test is not None:
        sizes = [(*size[:2], num_test.get(name, 0)) for size, name in zip(sizes, names, strict=True)]

    def of_client(client: int) -> ClientSamples:
        cut = parts.cut(train.read(names[client]), placement.data_seed, client)
        train.check_finite(names[client], cut._asdict(), placement.dtype)
        if test is not None:
            cut = cut._replace(test=test.read(names[client]))
            test.check_finite(names[client], {"test": cut.test}, placement.dtype)
        return cut

    return deal(
        placement, clients_per_chunk, names, sizes, of_client, train.input_shape, train.divisor,
        label_shape=train.label_shape, labels_from=f"{train.where}, {train.label}",
        test_from=(test or train).where,
    )  # fmt: skip


def _packed(
    train: FlatFile,
    test: FlatFile | None,
    parts: Parts,
    placement: Placement,
    clients_per_chunk: int | None,
    usable_bytes: float,
) -> FederatedSamples:
    """Return the same without a step of Python's a client: rows are cut when they are asked for."""
    names = train.names if test is None or test.names == train.names else sorted({*train.names, *test.names})
    starts, totals = train.rows_of(names)
    sizes = parts.num_samples_of_all(totals)
    of_test = None if test is None else test.rows_of(names)
    if of_test is not None:
        sizes[:, 2] = of_test[1]
    dealt = placement.deal(names, sizes[:, 0], clients_per_chunk, train.input_shape)
    mine = dealt.clients
    here = slice(mine.start, mine.stop)
    num_rows = int(totals[here].sum()) + (int(of_test[1][here].sum()) if of_test is not None else 0)
    hold = num_rows * train.bytes_a_sample <= usable_bytes
    pack = train.pack(names[here], starts[here], totals[here], placement.dtype, hold=hold)
    cut = LazyParts(parts, placement.data_seed, totals)
    in_parts = PackedParts(*(PackedPart(pack, cut.chooser(part)) for part in (0, 1, 2)))
    if test is not None and of_test is not None:
        rows, number = of_test
        test_pack = test.pack(names[here], rows[here], number[here], placement.dtype, hold=hold)
        in_parts = in_parts._replace(test=PackedPart(test_pack))
    labels_from = f"{train.where}, {train.label}"
    return FederatedSamples.of(
        names, sizes, dealt, in_parts, train.input_shape, train.divisor, labels_from=labels_from,
        test_from=(test or train).where,
    )  # fmt: skip
