"""What files of samples have in common, whatever their layout: how samples look, and what of them is refused."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ppfl.core.errors import UserError
from ppfl.interfaces.dataset import MAX_NUM_CLASSES, Samples
from ppfl.interfaces.usable_numbers import divisor_of, impossible_rows, largest_number, unusable_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import torch

LABEL = "label"
"""What labels are called in files unless a run says otherwise."""


class ClientsOfFile(ABC):
    """One open file of which only the names of clients are known."""

    where: str
    """How messages begin."""
    names: Sequence[str]
    """Of its clients, sorted."""

    @abstractmethod
    def count(self, name: str) -> int:
        """Return how many samples a client has; 0 when this file does not name it. Raises UserError for damage."""

    @abstractmethod
    def look_at(self, names: Collection[str], most: int | None) -> SampleFile:
        """Check the layout of some clients, of whose samples at most so many count, without reading samples."""


class Looks(Protocol):
    """An array of a file, or one in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of it."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers."""
        ...


class SampleFile(ABC):
    """One open file whose layout has been checked."""

    where: str
    """How messages begin."""
    field: str
    """What samples are called in this file."""
    label: str
    """What labels are."""
    sample_shape: tuple[int, ...]
    """As it is stored."""
    sample_dtype: np.dtype
    label_shape: tuple[int, ...] = ()
    """Of the label of a sample."""
    has_numbers: bool = False
    """Labels are floating point, kept as float64."""

    @abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """Return the number of samples of every client, by name."""

    @abstractmethod
    def read(self, name: str) -> Samples:
        """Read all samples of one client; none when this file does not name it. Raises UserError for broken labels."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of a sample as models see it: (height, width) -> (1, height, width), and channels first."""
        return input_shape_of(self.sample_shape)

    @property
    def divisor(self) -> float:
        """What samples are divided by to lie in [0, 1]."""
        return divisor_of(self.sample_dtype)

    def check_agrees(self, other: SampleFile) -> None:
        """Raise UserError unless samples of both files look alike."""
        if (self.sample_shape, self.sample_dtype) != (other.sample_shape, other.sample_dtype):
            raise UserError(
                f"{other.where}: samples are {other.sample_dtype} of shape {other.sample_shape}, those in {self.where} "
                f"are {self.sample_dtype} of shape {self.sample_shape}; they must agree"
            )
        if (self.label_shape, self.has_numbers) != (other.label_shape, other.has_numbers):
            raise UserError(f"{other.where}: labels look otherwise than those in {self.where}; they must agree")

    def check_finite(self, name: str, parts: Mapping[str, Samples], precision: torch.dtype) -> None:
        """Raise UserError for NaN, inf and what is beyond the numbers of the run, in any of the parts of a client."""
        import torch

        for part, samples in parts.items():
            self.check_numbers(samples.x, f"client {name!r}", f"{part} samples", self.largest(precision))
            if self.has_numbers:
                self.check_numbers(samples.y, f"client {name!r}", f"{part} labels", torch.finfo(precision).max)

    def check_numbers(self, x: np.ndarray, whose: str, what: str, largest: float) -> None:
        """Raise UserError for NaN, inf and numbers beyond the largest in samples (S, …) of a client."""
        if wrong := len(unusable_rows(x, largest)):
            raise UserError(
                f"{self.where}, {whose}: {wrong} of its {len(x)} {what} have NaN, inf or a number beyond "
                f"{largest:.3g}; all must be finite in the precision of the run"
            )

    def as_input(self, x: np.ndarray) -> np.ndarray:
        """Return samples (S, …) as they are stored in the shape that models see; a view."""
        return as_input(x)

    def nothing(self) -> Samples:
        """Return no samples, in the shape of this file's."""
        labels = np.empty((0, *self.label_shape), self.kept_dtype)
        return Samples(np.empty((0, *self.input_shape), self.sample_dtype), labels)

    @property
    def kept_dtype(self) -> type[np.int64] | type[np.float64]:
        """What labels are kept as."""
        return np.float64 if self.has_numbers else np.int64

    def largest(self, precision: torch.dtype) -> float:
        """Return the largest number that a sample may have."""
        return largest_number(self.sample_dtype, precision)


def input_shape_of(sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a stored sample as models see it: (height, width) -> (1, height, width), channels first."""
    if len(sample_shape) == 3:
        return (sample_shape[2], *sample_shape[:2])
    return (1, *sample_shape) if len(sample_shape) == 2 else sample_shape


def as_input(x: np.ndarray) -> np.ndarray:
    """Return stored samples (S, …) in the shape that models see; a view."""
    channels_first = np.moveaxis(x, -1, 1) if x.ndim == 4 else x
    return channels_first.reshape(len(x), *input_shape_of(x.shape[1:]))


def check_samples(x: Looks, y: Looks, fields: tuple[str, str], where: str, *, takes_numbers: bool = False) -> None:
    """Raise UserError unless x are samples and y is a label of each, by their shapes and number types.

    fields: what both are called. takes_numbers: labels may be floating point, one or several a sample.
    """
    field, label = fields
    check_x(x, field, where)
    check_y(y, label, where, takes_numbers=takes_numbers)
    check_numbers_agree(x, y, field, where)


def check_x(x: Looks, field: str, where: str) -> None:
    """Raise UserError unless these are samples, by their shape and number type."""
    if len(x.shape) not in (2, 3, 4):
        raise UserError(
            f"{where}: {field} have shape {x.shape}; allowed are (samples, height, width), (samples, height, width, "
            f"channels) and (samples, features)"
        )
    if 0 in x.shape[1:]:
        raise UserError(f"{where}: {field} have shape {x.shape}; a sample needs at least one number")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise UserError(f"{where}: {field} are {x.dtype}; allowed are uint8 and floating point")


def check_y(y: Looks, label: str, where: str, *, takes_numbers: bool) -> None:
    """Raise UserError unless these are labels, by their shape and number type."""
    are_numbers = takes_numbers and y.dtype.kind == "f" and len(y.shape) in (1, 2) and 0 not in y.shape[1:]
    if not are_numbers and (len(y.shape) != 1 or y.dtype.kind not in "iu"):
        others = ", or floating-point numbers" if takes_numbers else ""
        raise UserError(f"{where}: {label} is {y.dtype} of shape {y.shape}; it must hold one integer a sample{others}")


def check_numbers_agree(x: Looks, y: Looks, field: str, where: str) -> None:
    """Raise UserError unless there are as many labels as samples."""
    if x.shape[0] != y.shape[0]:
        raise UserError(f"{where}: {x.shape[0]} {field} but {y.shape[0]} labels; their numbers must agree")


def check_labels(y: np.ndarray, label: str, where: str) -> None:
    """Raise UserError for labels, which go by this name, that are none."""
    if y.dtype.kind != "f" and len(impossible_rows(y, MAX_NUM_CLASSES)):
        raise UserError(f"{where}: {label}s range from {y.min()} to {y.max()}; allowed are 0 to {MAX_NUM_CLASSES - 1}")
