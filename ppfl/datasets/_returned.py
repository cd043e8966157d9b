"""What a function of the user's returns for clients: checked, packed in the order of their names, and hashed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from ppfl.core.errors import UserError
from ppfl.core.host_memory import free_host_bytes
from ppfl.datasets._sample_file import LABEL, SampleFile, check_samples
from ppfl.interfaces.dataset import MAX_NUM_CLASSES, Samples
from ppfl.interfaces.packed_samples import Pack
from ppfl.interfaces.usable_numbers import impossible_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

PartName: TypeAlias = Literal["train", "validation", "test"]
_PARTS: tuple[PartName, ...] = get_args(PartName)
_ALLOWED = "allowed: (x, y), or {train: (x, y), test: (x, y)}, with or without test and validation"
_Pair: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class ReturnedSamples(SampleFile):
    """The samples of all M clients, sorted by name, in one pack a part."""

    where: str
    sample_shape: tuple[int, ...]
    sample_dtype: np.dtype
    label_shape: tuple[int, ...] = ()
    has_numbers: bool = False
    names: tuple[str, ...] = ()
    packs: Mapping[PartName, Pack] = field(default_factory=dict)
    """As the function names them; train alone where it names none."""
    sha256: str = ""
    """Of names, parts and arrays, 64 hexadecimal digits."""
    field: str = "x"

    @classmethod
    def look_at(cls, returned: object, where: str) -> ReturnedSamples:
        """Check and copy what a function returned. Raises UserError that names client, part and field."""
        clients = _clients(returned, where)
        parts = _parts(clients, where)
        name, part, x, y = _first_samples(clients, parts, where)
        if x.ndim < 2 or 0 in x.shape[1:]:
            shape = f"x have shape {x.shape}; allowed: samples along the first axis, each of at least one number"
            raise UserError(f"{_place(where, name, part)}: {shape}")
        has_numbers = y.dtype.kind == "f"
        looks = cls(where, x.shape[1:], _native(x.dtype), y.shape[1:], has_numbers, tuple(clients))
        packs = {part: looks._pack(part, [of_client[part] for of_client in clients.values()]) for part in parts}
        return replace(looks, packs=packs, sha256=_sha256(looks.names, packs))

    @property
    def num_bytes(self) -> int:
        """Return what they take."""
        return sum(array.nbytes for pack in self.packs.values() for array in _arrays(pack))

    def sizes(self) -> Mapping[str, int]:
        """Return the number of training samples of every client."""
        return dict(zip(self.names, self.packs["train"].sizes.tolist(), strict=True))

    def read(self, name: str) -> Samples:
        """Return the training samples of one client."""
        return self.part("train", self.names.index(name))

    def part(self, part: PartName, client: int) -> Samples:
        """Return a part of the samples of a client; nothing is copied."""
        pack = self.some(part, range(client, client + 1), copy=False)
        return Samples(*_arrays(pack))

    def some(self, part: PartName, clients: range, *, copy: bool) -> Pack:
        """Return a part of the samples of neighbouring clients; without a copy, nobody may change it."""
        (x, y), of_all = _arrays(self.packs[part]), self.packs[part]
        starts, sizes = (numbers[clients.start : clients.stop] for numbers in (of_all.starts, of_all.sizes))
        first = int(starts[0]) if len(starts) else 0
        rows = slice(first, first + int(sizes.sum()))
        x, y = (array[rows].copy() if copy else array[rows] for array in (x, y))
        return Pack(x, y, starts - first, sizes)

    def check_kind(self, vocabulary: int | None) -> None:
        """Raise UserError unless x are numbers and labels classes or numbers; with a vocabulary, unless all are ids."""
        x, y = next(arrays for arrays in map(_arrays, self.packs.values()) if len(arrays[1]))
        are_ids = self.sample_dtype.kind in "iu"
        if vocabulary is None:
            if are_ids and self.sample_dtype != np.uint8:
                allowed = "uint8 and floating point, or ids of tokens with `vocabulary`"
                raise UserError(f"{self.where}: x are {self.sample_dtype}; allowed are {allowed}")
            # as they were returned: with channels last
            check_samples(
                np.broadcast_to(x.dtype.type(0), (len(x), *self.sample_shape)),
                y,
                ("x", LABEL),
                self.where,
                takes_numbers=True,
            )
        elif not are_ids or len(self.sample_shape) != 1:
            raise UserError(
                f"{self.where}: x are {self.sample_dtype} of shape {self.sample_shape} a sample; with `vocabulary` "
                "they are integers, (samples, tokens)"
            )
        elif self.has_numbers or self.label_shape not in ((), self.sample_shape):
            raise UserError(
                f"{self.where}: {LABEL} is {self.kept_dtype.__name__} of shape {self.label_shape} a sample; with "
                "`vocabulary` it is an integer a sample or a token"
            )
        for part, pack in self.packs.items():
            x, y = _arrays(pack)
            if vocabulary is not None:
                self._check_range(part, "a token", x, vocabulary)
            if not self.has_numbers:
                self._check_range(part, "a label", y, vocabulary or MAX_NUM_CLASSES)

    def _check_range(self, part: PartName, what: str, values: np.ndarray, end: int) -> None:
        rows = impossible_rows(values, end)
        if not len(rows):
            return
        row = int(rows[0])
        # those without samples begin where the next one does, and of all that begin there the last one has it
        client = int(np.searchsorted(self.packs[part].starts, row, side="right")) - 1
        value = next(value for value in values[row].reshape(-1).tolist() if not 0 <= value < end)
        place = _place(self.where, self.names[client], part)
        raise UserError(f"{place}: {what} is {value}; allowed are 0 to {end - 1}")

    def _pack(self, part: PartName, pairs: Sequence[_Pair]) -> Pack:
        """Copy the arrays of a part, one client after another. Raises UserError for those that look otherwise."""
        sizes = np.array([len(y) for _, y in pairs], dtype=np.int64)
        ends = np.cumsum(sizes)
        kinds = (self.sample_dtype, self.sample_shape), (np.dtype(self.kept_dtype), self.label_shape)
        row_bytes = sum(dtype.itemsize * math.prod(shape) for dtype, shape in kinds)
        if (needed := int(ends[-1]) * row_bytes) > (free := free_host_bytes()):
            gib = 2.0**30
            raise UserError(f"{self.where}: {part} samples take {needed / gib:.1f} GiB; {free / gib:.1f} GiB are free")
        x = np.empty((int(ends[-1]), *self.input_shape), self.sample_dtype)
        y = np.empty((int(ends[-1]), *self.label_shape), self.kept_dtype)
        for client, end in enumerate(ends.tolist()):
            of_x, of_y = pairs[client]
            if not len(of_y):
                continue
            self._check_looks(of_x, of_y, self.names[client], part)
            rows = slice(end - len(of_y), end)
            x[rows], y[rows] = self.as_input(of_x), of_y
        return Pack(x, y, ends - sizes, sizes)

    def _check_looks(self, x: np.ndarray, y: np.ndarray, client: str, part: PartName) -> None:
        kind = "floating point" if self.has_numbers else "integers"
        x_kind, y_kind = _native(x.dtype), "floating point" if y.dtype.kind == "f" else "integers"
        for what, found, wanted in (
            ("x are", (x_kind, x.shape[1:]), (self.sample_dtype, self.sample_shape)),
            ("labels are", (y_kind, y.shape[1:]), (kind, self.label_shape)),
        ):
            if found != wanted:
                raise UserError(
                    f"{_place(self.where, client, part)}: {what} {found[0]} of shape {found[1]} a sample, elsewhere "
                    f"{wanted[0]} of shape {wanted[1]}; they must agree"
                )


def _clients(returned: object, where: str) -> dict[str, dict[PartName, _Pair]]:
    """Return the parts of every client by its name, sorted; clients of a list are called by their numbers."""
    if isinstance(returned, list | tuple):
        digits = len(str(max(len(returned) - 1, 0)))
        returned = {f"{number:0{digits}d}": client for number, client in enumerate(returned)}
    if not isinstance(returned, Mapping):
        raise UserError(f"{where}: returned {_kind(returned)}; allowed: {{name: client}}, or a list of clients")
    if not returned:
        raise UserError(f"{where}: returned no client; allowed: at least one")
    for name in returned:
        if not isinstance(name, str) or not name or "\0" in name or not name.isprintable():
            raise UserError(f"{where}: a client is called {name!r}; allowed: a printable text that is not empty")
    return {name: _of_client(returned[name], where, name) for name in sorted(returned)}


def _of_client(given: object, where: str, name: str) -> dict[PartName, _Pair]:
    if isinstance(given, list | tuple):
        return {"train": _pair(given, f"{where}, client {name!r}")}
    if not isinstance(given, Mapping):
        raise UserError(f"{where}, client {name!r}: is {_kind(given)}; {_ALLOWED}")
    if unknown := [key for key in given if key not in _PARTS]:
        raise UserError(f"{where}, client {name!r}: has {unknown[0]!r}; {_ALLOWED}")
    if "train" not in given:
        raise UserError(f"{where}, client {name!r}: has no train; {_ALLOWED}")
    return {part: _pair(given[part], _place(where, name, part)) for part in _PARTS if part in given}


def _pair(given: object, where: str) -> _Pair:
    """Return x and y, neither of them copied."""
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise UserError(f"{where}: is {_kind(given)}; allowed: (x, y)")
    x, y = (_array(one, name, where) for one, name in zip(given, ("x", LABEL), strict=True))
    if len(x) != len(y):
        raise UserError(f"{where}: {len(x)} x but {len(y)} labels; their numbers must agree")
    return x, y


def _array(given: object, name: str, where: str) -> np.ndarray:
    if np.ma.is_masked(given):
        raise UserError(f"{where}: {name} has missing values; allowed: numbers alone")
    try:
        found = np.asarray(given)
    except Exception as error:
        why = str(error).split("\n", 1)[0]
        raise UserError(f"{where}: {name} cannot be made an array: {type(error).__name__}: {why}") from error
    if found.dtype.kind not in "iuf" or found.ndim == 0:
        allowed = "integers or floating-point numbers, samples along the first axis"
        raise UserError(f"{where}: {name} is {found.dtype} of shape {found.shape}; allowed: {allowed}")
    return found


def _native(dtype: np.dtype) -> np.dtype:
    """Return what numbers are kept as: in the order of bytes of this machine, and no long double."""
    return np.dtype(np.float64) if dtype.kind == "f" and dtype.itemsize > 8 else dtype.newbyteorder("=")


def _parts(clients: Mapping[str, Mapping[PartName, _Pair]], where: str) -> tuple[PartName, ...]:
    """Return which parts there are, the same of all clients."""
    first = next(iter(clients))
    parts = tuple(clients[first])
    for name, of_client in clients.items():
        if tuple(of_client) != parts:
            raise UserError(
                f"{where}, client {name!r}: has {', '.join(of_client)}, client {first!r} {', '.join(parts)}; allowed: "
                "the same parts of all clients, without samples where there are none"
            )
    return parts


def _first_samples(
    clients: Mapping[str, Mapping[PartName, _Pair]], parts: Sequence[PartName], where: str
) -> tuple[str, PartName, np.ndarray, np.ndarray]:
    """Return the first arrays that are not empty, as which all others have to look."""
    for part in parts:
        for name, of_client in clients.items():
            x, y = of_client[part]
            if len(y):
                return name, part, x, y
    raise UserError(f"{where}: no client has a sample; allowed: at least one")


def _sha256(names: Sequence[str], packs: Mapping[PartName, Pack]) -> str:
    digest = hashlib.sha256()
    # lengths too, of all that may have any: bytes must not move from one array to the next unseen
    for part in (*names, *packs):
        told = part.encode()
        digest.update(len(told).to_bytes(8, "big") + told)
    for pack in packs.values():
        for array in (pack.sizes, *_arrays(pack)):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _arrays(pack: Pack) -> _Pair:
    assert isinstance(pack.x, np.ndarray)
    return pack.x, pack.y


def _place(where: str, client: str, part: PartName) -> str:
    return f"{where}, client {client!r}, {part}"


def _kind(given: object) -> str:
    found = f"a {type(given).__name__}"
    return f"{found} of {len(given)}" if isinstance(given, list | tuple | Mapping) else found
