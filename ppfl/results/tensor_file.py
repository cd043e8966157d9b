"""safetensors files, written and read one tensor at a time: all of them together may not fit into memory.

Format: 8 bytes, the length of a header, little-endian; the header, JSON, {name: dtype, shape, data_offsets} with
"__metadata__"; the numbers. Wide number types come first, so that every tensor is aligned. Any reader of safetensors
reads these files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from ppfl.core.files import open_plain, whole_path
from ppfl.results.seal import CHECKSUM, HEAD_BYTES, DamagedError, blank, damaged, digits_of, seal_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from ppfl.core.types import Params

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PIECE_BYTES = 2**22
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""Of the format."""
_METADATA = "__metadata__"


def write_tensors(
    path: Path, like: Params, read: Callable[[str], torch.Tensor], metadata: Mapping[str, str], kind: str = ""
) -> tuple[int, str]:
    """Write tensors, whole or not at all; return size and SHA-256 of the file.

    like: shapes and number types, perhaps on the device "meta". read: returns one of them, and is called for each once.
    kind: of the checksum inside the file; none without. The SHA-256 returned is that of a file without one.
    Raises OSError when the disk refuses.
    """
    # the sort is stable, so that names of one width keep their order, and equal states give equal files
    names = sorted(like, key=lambda name: -like[name].element_size())
    header = _header(like, names, {CHECKSUM: blank(kind), **metadata} if kind else metadata)
    found, size = hashlib.sha256(header), len(header)
    with whole_path(path) as partial, partial.open("wb", buffering=0) as file:
        _write(file, memoryview(header))
        for name in names:
            size += _write_tensor(file, read(name), like[name], found)
        if kind:
            seal = seal_in(header)
            assert seal is not None
            # a seal holds the checksum of the file before it was sealed, which is what was written
            file.seek(seal.offset)
            _write(file, memoryview(found.hexdigest().encode()))
    return size, found.hexdigest()


def client_by_client(load: Callable[[int], Params], client_of: Callable[[str], str]) -> Callable[[str], torch.Tensor]:
    """Return a reader of tensors by name that has those of one client at a time in memory.

    load: returns all tensors of a client. client_of: finds its number in the name of a tensor.
    """
    held: dict[int, Params] = {}

    def read(name: str) -> torch.Tensor:
        client = int(client_of(name))
        if client not in held:
            held.clear()  # before the next one is there
            held[client] = load(client)
        return held[client][name]

    return read


@dataclass(frozen=True)
class _Place:
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    """Counted from the beginning of the file."""


class TensorFile:
    """A file whose header was read; tensors are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises OSError, and DamagedError for what does not have the format."""
        self.path = path
        with open_plain(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise _no_tensors(path, "its header has another length than it says")
            header = file.read(length)
        try:
            entries: dict[str, Any] = json.loads(header)
            self.metadata: dict[str, str] = entries.pop(_METADATA, {})
            self._places = _places(entries, _LENGTH_BYTES + length, size)
            if not all(isinstance(text, str) for text in self.metadata.values()):
                raise TypeError("metadata that is no text")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _no_tensors(path, " ".join(str(error).split())) from error

    @property
    def names(self) -> Iterable[str]:
        """Names of all tensors, in the order of the file."""
        return self._places.keys()

    def like(self, name: str) -> torch.Tensor:
        """Return shape and number type of a tensor, on the device "meta"."""
        place = self._places[name]
        return torch.empty(place.shape, dtype=place.dtype, device="meta")

    def read(self, names: Iterable[str]) -> Params:
        """Return some tensors, each in memory of its own. Raises OSError, DamagedError, KeyError."""
        found: Params = {}
        with self.path.open("rb", buffering=0) as file:
            for name in names:
                place = self._places[name]
                value = torch.empty(place.shape, dtype=place.dtype)
                rest = value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else memoryview(b"")
                file.seek(place.begin)
                while len(rest):
                    count = file.readinto(rest)
                    if not count:
                        raise _no_tensors(self.path, "it has become shorter")
                    rest = rest[count:]
                found[name] = value
        return found


def load_tensors(path: Path) -> Params:
    """Return all tensors of a file, after a look at its checksum where it has one. Raises OSError, DamagedError."""
    file, _ = open_checked(path)
    return file.read(file.names)


def open_checked(path: Path) -> tuple[TensorFile, bool]:
    """Return a file, and whether it has a checksum; it is as it was written then. Raises OSError, DamagedError."""
    with open_plain(path) as file:
        seal = seal_in(file.read(HEAD_BYTES))
        if seal is not None and digits_of(file, seal) != seal.digits:
            raise damaged(path)
    file_of_tensors = TensorFile(path)
    if seal is None and CHECKSUM in file_of_tensors.metadata:
        raise damaged(path)
    return file_of_tensors, seal is not None


def _header(like: Params, names: list[str], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {_METADATA: dict(metadata)}  # the first: checksums are near the beginning
    begin = 0
    for name in names:
        value = like[name]
        end = begin + value.numel() * value.element_size()
        entries[name] = {"dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    # spaces, which JSON allows, up to a multiple of 8: numbers begin aligned, as the format asks for
    text = text.ljust(-(-len(text) // _LENGTH_BYTES) * _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _write_tensor(file: Any, value: torch.Tensor, like: torch.Tensor, found: Any) -> int:
    """Write a tensor in pieces, which a checksum is told; return its size. Nothing of it is held afterwards."""
    assert (value.shape, value.dtype) == (like.shape, like.dtype)
    # a copy where it is not contiguous, of one tensor at a time
    flat = value.detach().reshape(-1)
    for piece in torch.split(flat, _PIECE_BYTES // flat.element_size()) if flat.numel() else ():
        content = piece.cpu().contiguous().view(torch.uint8).numpy().data
        found.update(content)
        _write(file, content)
    return flat.numel() * flat.element_size()


def _write(file: Any, piece: memoryview) -> None:
    while len(piece):
        piece = piece[file.write(piece) :]


def _places(entries: Mapping[str, Any], start: int, size: int) -> dict[str, _Place]:
    """Return where tensors are. Raises ValueError, KeyError, TypeError for what does not fill the file exactly."""
    places = {}
    ends = {}
    for name, entry in entries.items():
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(f"{name}: sizes must be whole numbers")
        if end - begin != prod(shape) * dtype.itemsize:
            raise ValueError(f"{name}: its shape is of another size")
        places[name] = _Place(dtype, shape, start + begin)
        ends[name] = start + end
    at = start
    for name in sorted(places, key=lambda name: (places[name].begin, ends[name])):
        # no gaps and no overlaps, as the format demands: else two names could share memory, or bytes be hidden
        # between them
        if places[name].begin != at:
            raise ValueError(f"{name}: does not begin where the one before ends")
        at = ends[name]
    if at != size:
        raise ValueError("it is longer or shorter than it says")
    return places


def _no_tensors(path: Path, why: str) -> DamagedError:
    return DamagedError(f"{path}: is damaged, or no safetensors file ({why})")
