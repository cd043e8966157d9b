"""NPZ files: arrays that NumPy has saved, without what would have to be executed to be read."""

from __future__ import annotations

import sys
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.core.files import open_plain
from ppfl.core.plugins import Settings
from ppfl.datasets._arrays import refuse_unlike, samples_of
from ppfl.datasets._data_bytes import DataBytes, most_bytes, refuse_size, told
from ppfl.interfaces.centralized import FilesDataset
from ppfl.interfaces.file_or_fraction import Fraction, file_or_fraction
from ppfl.interfaces.partition import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from ppfl.core.plugins import Example

_SURROGATES = range(0xD800, 0xE000)
"""Halves of characters of another encoding."""
_WAYS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
# what zipfile and numpy raise for damage; a name of a compression that is not there is a NotImplementedError
_DAMAGE = (
    zipfile.BadZipFile,
    ValueError,
    LookupError,
    TypeError,
    SyntaxError,
    RuntimeError,
    OverflowError,
    AttributeError,
)


class NPZArrays(Settings):
    """Samples and labels in a file."""

    file: DataFile
    """An NPZ file, compressed or not."""
    x: Annotated[str, Field(min_length=1)] = "x"
    """The array of samples: (S, height, width), (S, height, width, channels) or (S, features); uint8, which are scaled
    to [0, 1], or floating point."""
    y: Annotated[str, Field(min_length=1)] = "y"
    """The array of labels: (S,) integers, or floating-point numbers, (S,) or (S, numbers)."""


class NPZ(FilesDataset):
    """Images or feature vectors and their labels, in arrays as `numpy.savez` writes them; objects are refused.

    Source of the layout: NumPy Enhancement Proposal 1.
    """

    name: Literal["npz"]
    example: ClassVar[Example] = {
        "train": {"file": "train.npz", "x": "x_train", "y": "y_train"}, "test": {"file": "test.npz"},
        "partition": {"name": "iid", "clients": 6},
    }  # fmt: skip
    train: NPZArrays
    """Where the samples to train on are, from which validation samples are taken."""
    test: Annotated[Annotated[NPZArrays, Tag("file")] | Fraction, Discriminator(file_or_fraction)] = 0.2
    """Where the samples to test on are; or the fraction of each client's samples, rounded down."""

    def pools(self, field: str | None) -> tuple[Pool, Pool | None]:
        """Read the arrays. Raises UserError for files without them, objects, and shapes that do not agree.

        field: an array (S,) of integers or texts.
        """
        train = _pool(self.train, "train", field)
        if isinstance(self.test, float):
            return train, None
        test = _pool(self.test, "test", field)
        refuse_unlike(test.samples, train.samples, test.where, train.where)
        return train, test


def _pool(arrays: NPZArrays, key: str, field: str | None) -> Pool:
    where = f"problem.dataset.{key}.file: {arrays.file.path}"
    names = [arrays.x, arrays.y, *([field] if field is not None else [])]
    x, y, *of_field = _read(arrays.file, names, where)
    samples = samples_of(x, y, f"{where}, {arrays.x}", f"{where}, {arrays.y}")
    if field is None:
        return Pool(samples, f"{where}, {arrays.y}")
    (who,) = of_field
    if who.shape != (len(x),) or who.dtype.kind not in "iuU":
        raise UserError(
            f"{where}, {field}: is {who.dtype} of shape {who.shape}; it must hold an integer or a text for each of the "
            f"{len(x)} samples"
        )
    return Pool(samples, f"{where}, {arrays.y}", _texts(who, f"{where}, {field}"))


def _texts(who: np.ndarray, where: str) -> np.ndarray:
    """Return integers as texts of one width, so that texts have the order of those that are not negative.

    Raises UserError for texts of numbers that are no characters.
    """
    if who.dtype.kind == "U":
        letters = who.view(np.uint32)
        if ((letters > sys.maxunicode) | ((letters >= _SURROGATES.start) & (letters < _SURROGATES.stop))).any():
            raise UserError(f"{where}: has texts that are none in Unicode")
        return who
    width = max((len(str(number)) for number in np.unique(who).tolist()), default=1)
    return np.array([f"{number:0{width}d}" for number in who.tolist()])


def _read(data_file: DataFile, names: list[str], where: str) -> list[np.ndarray]:
    with told(where), open_plain(data_file.path) as plain, _damage_told(where), zipfile.ZipFile(plain) as archive:
        return [_member(archive, name, where) for name in names]


def _member(archive: zipfile.ZipFile, name: str, where: str) -> np.ndarray:
    """Read one array, whose size is compared with what the file holds before memory is taken."""
    there = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    info, where = there.get(name), f"{where}, {name}"
    if info is None:
        raise UserError(
            f"{where}: is no array of this file; allowed: {', '.join(sorted(there)) or 'none, it is empty'}"
        )
    if info.compress_type not in _WAYS or info.flag_bits & 1:
        raise UserError(
            f"{where}: is encrypted or compressed in an unknown way; allowed are stored and deflated arrays"
        )
    if info.file_size > most_bytes(info.compress_size):
        refuse_size(info.file_size, most_bytes(info.compress_size), where)
    with _damage_told(where), archive.open(info) as member:
        shape, fortran_order, dtype = _header(member, where)
        if dtype.kind not in "biufU" or (dtype.itemsize > 8 and dtype.kind == "f"):
            raise UserError(f"{where}: holds {dtype}; allowed are integers, numbers and texts, no objects")
        content = DataBytes(member, info.file_size, where)  # type: ignore[arg-type]
        numbers = content.array(shape[::-1] if fortran_order else shape, dtype)
        content.end()
    return numbers.transpose() if fortran_order else numbers


def _header(member: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(member)
    raise UserError(f"{where}: is an array of version {version}; allowed are 1.0 and 2.0")


@contextmanager
def _damage_told(where: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise UserError(f"{where}: is no array in an NPZ file: {error or type(error).__name__}") from error
