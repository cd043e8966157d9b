"""Federated data sets in HDF5, in the layout of the public ones."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from ppfl.core.agree import on_every_rank
from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.interfaces.dataset import (
    MAX_NUM_CLASSES,
    ClientSamples,
    Dataset,
    FederatedSamples,
    Parts,
    Samples,
    deal,
    refuse_parts,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from ppfl.core.plugins import Example
    from ppfl.interfaces.data_hdf5 import DataArray, DataGroup
    from ppfl.interfaces.placement import Placement

_SAMPLE_FIELDS = ("pixels", "image")
_LABEL_FIELD = "label"
_BYTE_LEVELS = 255.0
_LAYOUT = "the layout is examples/<client>/pixels (or image) and examples/<client>/label"


def _file_or_fraction(value: object) -> str:
    return "fraction" if isinstance(value, int | float) else "file"


class FederatedHDF5(Dataset):
    """Images or feature vectors at examples/<client>/{pixels or image, label}; clients in the order of their names.

    Samples are (S, height, width), (S, height, width, channels) or (S, features), uint8 (scaled to [0, 1]) or floating
    point (used as they are), in any byte order, and finite in the precision of the run. A client that only one of the
    two files names has no samples in the other.
    Source of the layout: the HDF5 files of TensorFlow Federated's simulation data sets.
    """

    name: Literal["federated_hdf5"]
    example: ClassVar[Example] = {"train": "train.h5", "test": "test.h5"}
    train: DataFile
    """File of the samples to train on, from which validation samples are taken."""
    test: Annotated[
        Annotated[DataFile, Tag("file")] | Annotated[float, Field(ge=0, lt=1), Tag("fraction")],
        Discriminator(_file_or_fraction),
    ] = 0.2
    """File of the samples to test on; or, without one, the fraction of each client's samples, rounded down."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of each client's samples in `train` kept for choosing hyperparameters, rounded down."""

    @model_validator(mode="after")
    def _something_to_train_on(self) -> FederatedHDF5:
        if isinstance(self.test, float):
            refuse_parts(self.test, self.validation)
        return self

    def load(self, placement: Placement, clients_per_chunk: int | None) -> FederatedSamples:
        """Read the layout of all clients and the samples of this rank's own. Collective.

        Raises UserError for files without this layout, fields that are missing or disagree, impossible labels, NaN.
        """
        return on_every_rank(placement.communicator, lambda: self._read(placement, clients_per_chunk))

    def _read(self, placement: Placement, clients_per_chunk: int | None) -> FederatedSamples:
        with ExitStack() as stack:
            train = _Reader.open(self.train, "train", stack)
            test = _Reader.open(self.test, "test", stack) if isinstance(self.test, DataFile) else None
            if test is not None:
                train.check_agrees(test)
            # by name, not in the order of the file, so that a copy written in another order is the same problem
            names = sorted({*train.num_samples, *(test.num_samples if test else ())})
            parts = Parts(self.test if isinstance(self.test, float) else 0.0, self.validation)
            sizes = [parts.num_samples(train.num_samples.get(name, 0)) for name in names]
            if test is not None:
                of_test = (test.num_samples.get(name, 0) for name in names)
                sizes = [(*size[:2], num_test) for size, num_test in zip(sizes, of_test, strict=True)]

            def of_client(client: int) -> ClientSamples:
                cut = parts.cut(train.read(names[client]), placement.data_seed, client)
                train.check_finite(names[client], cut._asdict(), placement.dtype)
                if test is not None:
                    cut = cut._replace(test=test.read(names[client]))
                    test.check_finite(names[client], {"test": cut.test}, placement.dtype)
                return cut

            shape, divisor = (
                _channels_first(train.sample_shape),
                _BYTE_LEVELS if train.sample_dtype == np.uint8 else 1.0,
            )
            return deal(placement, clients_per_chunk, names, sizes, of_client, shape, divisor)


@dataclass(frozen=True)
class _Reader:
    """One open file whose layout has been checked; samples are read client by client."""

    examples: DataGroup
    where: str
    field: str
    num_samples: dict[str, int]
    """By name of the client."""
    sample_shape: tuple[int, ...]
    sample_dtype: np.dtype

    @classmethod
    def open(cls, data_file: DataFile, key: str, stack: ExitStack) -> _Reader:
        """Open a file until the stack unwinds and check the layout of all its clients, without reading samples."""
        from ppfl.interfaces.data_hdf5 import open_data

        where = f"problem.dataset.{key}: {data_file.path}"
        examples = stack.enter_context(open_data(data_file.path, where)).group("examples", f"{where}, examples")
        names = () if examples is None else examples.names()
        if examples is None or not names:
            raise UserError(f"{where} has no clients; {_LAYOUT}")
        field = _sample_field(examples, names[0], where)
        shape, dtype, sizes = None, None, {}
        for name in names:  # one at a time: an open data set takes 17 kB
            x, y = _fields(examples, name, field, where)
            if shape is None:
                shape, dtype = x.shape[1:], x.dtype
            elif (x.shape[1:], x.dtype) != (shape, dtype):
                raise UserError(
                    f"{where}, client {name!r}: {field} are {x.dtype} of shape {x.shape[1:]} a sample, those of client "
                    f"{names[0]!r} are {dtype} of shape {shape}; they must agree"
                )
            sizes[name] = y.shape[0]
        assert shape is not None
        assert dtype is not None
        return cls(examples, where, field, sizes, shape, dtype)

    def check_agrees(self, other: _Reader) -> None:
        """Raise UserError unless samples of both files look alike."""
        if (self.sample_shape, self.sample_dtype) != (other.sample_shape, other.sample_dtype):
            raise UserError(
                f"{other.where}: samples are {other.sample_dtype} of shape {other.sample_shape}, those in {self.where} "
                f"are {self.sample_dtype} of shape {self.sample_shape}; they must agree"
            )

    def check_finite(self, name: str, parts: Mapping[str, Samples], precision: torch.dtype) -> None:
        """Raise UserError for NaN, inf and what is beyond the numbers of the run, in any of the parts of a client."""
        import torch

        if self.sample_dtype == np.uint8:
            return
        # a finite float64 may be inf in the float32 of a run
        largest = min(torch.finfo(precision).max, float(np.finfo(self.sample_dtype).max))
        for part, samples in parts.items():
            good = np.abs(samples.x) <= largest  # NaN is not
            if not good.all():
                wrong = int((~good.reshape(len(samples), -1).all(axis=1)).sum())
                raise UserError(
                    f"{self.where}, client {name!r}: {wrong} of its {len(samples)} {part} samples have NaN, inf or a "
                    f"number beyond {largest:.3g}; all must be finite in the precision of the run"
                )

    def read(self, name: str) -> Samples:
        """Read all samples of one client; none when this file does not name it."""
        if name not in self.num_samples:
            shape = _channels_first(self.sample_shape)
            return Samples(np.empty((0, *shape), self.sample_dtype), np.empty(0, np.int64))
        x, y = (array.read() for array in _fields(self.examples, name, self.field, self.where))
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < MAX_NUM_CLASSES:
            raise UserError(
                f"{self.where}, client {name!r}: labels range from {y.min()} to {y.max()}; "
                f"allowed are 0 to {MAX_NUM_CLASSES - 1}"
            )
        if x.ndim == 4:
            x = np.moveaxis(x, -1, 1)
        return Samples(np.ascontiguousarray(x).reshape(len(y), *_channels_first(self.sample_shape)), y.astype(np.int64))


def _sample_field(examples: DataGroup, client: str, where: str) -> str:
    """Return what samples are called in this file."""
    group = examples.group(client, f"{where}, client {client!r}")
    held = () if group is None else group.names()
    return next((name for name in _SAMPLE_FIELDS if name in held), _SAMPLE_FIELDS[0])


def _fields(examples: DataGroup, client: str, field: str, where: str) -> tuple[DataArray, DataArray]:
    """Return the samples and labels of one client, checked but not read."""
    where = f"{where}, client {client!r}"
    group = examples.group(client, where)
    x, y = (None if group is None else group.array(name, f"{where}, {name}") for name in (field, _LABEL_FIELD))
    if x is None or y is None:
        raise UserError(f"{where}: no {field if x is None else _LABEL_FIELD}; {_LAYOUT}")
    if len(x.shape) not in (2, 3, 4):
        raise UserError(
            f"{where}: {field} have shape {x.shape}; allowed are (samples, height, width), (samples, height, width, "
            f"channels) and (samples, features)"
        )
    if 0 in x.shape[1:]:
        raise UserError(f"{where}: {field} have shape {x.shape}; a sample needs at least one number")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise UserError(f"{where}: {field} are {x.dtype}; allowed are uint8 and floating point")
    if len(y.shape) != 1 or y.dtype.kind not in "iu":
        raise UserError(f"{where}: label is {y.dtype} of shape {y.shape}; it must hold one integer a sample")
    if x.shape[0] != y.shape[0]:
        raise UserError(f"{where}: {x.shape[0]} {field} but {y.shape[0]} labels; their numbers must agree")
    return x, y


def _channels_first(sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(height, width) -> (1, height, width); (height, width, channels) -> (channels, height, width)."""
    if len(sample_shape) == 3:
        return (sample_shape[2], *sample_shape[:2])
    return (1, *sample_shape) if len(sample_shape) == 2 else sample_shape
