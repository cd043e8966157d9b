"""What the files of a checkpoint hold: an entry, which names the parts and their checksums, and the part of each rank.

Everything that is read is looked at before it is used: a part lies in the folder of its checkpoint and nowhere else,
and sizes, counts and types are possible ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppfl.core.files import write_whole
from ppfl.core.snapshot import Snapshot
from ppfl.results.seal import DamagedError
from ppfl.results.tensor_file import TensorFile, client_by_client, write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from io import BufferedReader
    from pathlib import Path

    import torch

    from ppfl.core.types import Params, State

_OF_CLIENT = re.compile(r"client/(\d{1,18})/([^/]+)/(.+)", re.DOTALL)
_OF_COLUMNS = re.compile(r"columns/(\d{1,18})")
_STATE = "state"
_MAX_ENTRY_BYTES = 2**26
_DIGITS = re.compile(r"[0-9a-f]{64}")


def part_name(rank: int) -> str:
    """Return the name of the part of a rank."""
    return f"rank-{rank}.safetensors"


def write_entry(path: Path, entry: Mapping[str, Any]) -> None:
    """Write an entry with its checksum. Raises OSError."""
    write_whole(path, json.dumps({**entry, "checksum": _checksum(entry)}, indent=1).encode())


def read_entry(path: Path) -> dict[str, Any]:
    """Return an entry. Raises OSError, and DamagedError with the reason when it is not as it was written."""
    with _open_plain(path) as file:
        # what is cut off here fails as JSON, or by its checksum
        text = file.read(_MAX_ENTRY_BYTES)
    try:
        entry = json.loads(text)
        content = {key: value for key, value in entry.items() if key != "checksum"}
        if entry.get("checksum") != _checksum(content):
            raise ValueError("its checksum is another one")
    except (ValueError, AttributeError, RecursionError) as error:
        raise DamagedError(" ".join(str(error).split())) from error
    if not _is_possible(content):
        raise DamagedError("it names files or numbers that no checkpoint has")
    return content


def examine_part(folder: Path, part: Mapping[str, Any]) -> None:
    """Compare a part with what its entry says. Raises DamagedError."""
    path = folder / part["name"]
    try:
        # O_NOFOLLOW looks at the last part of a path alone
        if folder.is_symlink():
            raise DamagedError(f"is damaged: {folder.name} is a symbolic link")
        with _open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != part["size"]:
                raise DamagedError(f"is damaged: {path.name} has {size} bytes instead of {part['size']}")
            digits = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedError(f"is damaged: {path.name}: {error.strerror}") from error
    if digits != part["sha256"]:
        raise DamagedError(f"is damaged: {path.name} has another checksum")


def write_snapshot(path: Path, snapshot: Snapshot, *, with_numbers: bool) -> tuple[int, str]:
    """Write what a rank has of a state, one client at a time; return size and SHA-256. Raises OSError."""
    like = dict(snapshot.tensors)
    for client in snapshot.states.clients:
        like |= _named(client, snapshot.states.like(client))
    like |= {f"columns/{start}": snapshot.columns.like(start) for start in snapshot.columns.starts}
    # the order of names is part of the state, and files have one of their own
    header = {"names": list(like), "numbers": snapshot.numbers if with_numbers else {}}
    of_client = client_by_client(
        lambda client: _named(client, snapshot.states.state(client)), lambda name: name.split("/", 2)[1]
    )

    def read(name: str) -> torch.Tensor:
        if (columns := _OF_COLUMNS.fullmatch(name)) is not None:
            return snapshot.columns.read(int(columns[1]))
        return snapshot.tensors[name] if name in snapshot.tensors else of_client(name)

    return write_tensors(path, like, read, {_STATE: json.dumps(header)})


def read_snapshot(round: int, clients: range, paths: Sequence[Path]) -> Snapshot:
    """Read what some parts say, that of rank 0 first; the states of clients are read when they are asked for.

    Raises DamagedError.
    """
    numbers: dict[str, Any] = {}
    tensors: Params = {}
    places: dict[int, tuple[TensorFile, list[str]]] = {}
    columns: dict[int, TensorFile] = {}
    for path in paths:
        try:
            part = TensorFile(path)
            header = json.loads(part.metadata[_STATE])
            names = header["names"]
            if sorted(names) != sorted(part.names) or not isinstance(header["numbers"], dict):
                raise ValueError("its header names other tensors")
            common = []
            for name in names:
                found = _OF_CLIENT.fullmatch(name)
                if (start := _OF_COLUMNS.fullmatch(name)) is not None:
                    columns[int(start[1])] = part
                elif found is None:
                    common.append(name)
                elif int(found[1]) in clients:
                    places.setdefault(int(found[1]), (part, []))[1].append(name)
            tensors |= part.read(common)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{path.name} cannot be read any more: {' '.join(str(error).split())}") from error
        numbers = numbers or header["numbers"]
    return Snapshot(round, clients, numbers, tensors, _SavedStates(places), _SavedColumns(columns))


@dataclass(frozen=True)
class _SavedStates:
    """States in the files of a checkpoint (`ppfl.core.snapshot.ClientStates`)."""

    _places: Mapping[int, tuple[TensorFile, list[str]]]

    @property
    def clients(self) -> Sequence[int]:
        return sorted(self._places)

    def like(self, client: int) -> State:
        part, names = self._places[client]
        return _grouped({name: part.like(name) for name in names})

    def state(self, client: int) -> State:
        part, names = self._places[client]
        try:
            return _grouped(part.read(names))
        except OSError as error:
            raise DamagedError(f"{part.path.name} cannot be read any more: {error.strerror}") from error


@dataclass(frozen=True)
class _SavedColumns:
    """Columns in the files of a checkpoint (`ppfl.core.snapshot.Columns`)."""

    _parts: Mapping[int, TensorFile]

    @property
    def starts(self) -> Sequence[int]:
        return sorted(self._parts)

    def like(self, start: int) -> torch.Tensor:
        return self._parts[start].like(f"columns/{start}")

    def read(self, start: int) -> torch.Tensor:
        part, name = self._parts[start], f"columns/{start}"
        try:
            return part.read([name])[name]
        except OSError as error:
            raise DamagedError(f"{part.path.name} cannot be read any more: {error.strerror}") from error


def _grouped(named: Params) -> State:
    state: State = {}
    for whole, value in named.items():
        _, _, group, name = whole.split("/", 3)
        state.setdefault(group, {})[name] = value
    return state


def _open_plain(path: Path) -> BufferedReader:
    """Open a file that lies there itself: a link would lead out of the folder, a pipe would not end."""
    # the folder may be one that others write to, and what they put there must not be read as if it were ours
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _named(client: int, state: State) -> Params:
    return {f"client/{client}/{group}/{name}": x for group, params in state.items() for name, x in params.items()}


def _checksum(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def _is_possible(entry: Mapping[str, Any]) -> bool:
    """Say whether an entry names the files that checkpoints have, and numbers that they can have."""
    parts, round = entry.get("parts"), entry.get("round")
    return (
        _is_count(round)
        and entry.get("folder") == f"round-{round}"
        and isinstance(entry.get("notes", {}), dict)
        and isinstance(parts, list)
        and len(parts) > 0
        and _is_count(entry.get("num_ranks"))
        and entry["num_ranks"] == len(parts)
        and all(isinstance(part, dict) and _is_part(part, rank) for rank, part in enumerate(parts))
    )


def _is_part(part: Mapping[str, Any], rank: int) -> bool:
    clients, digits = part.get("clients"), part.get("sha256")
    return (
        _is_count(part.get("rank"))
        and part["rank"] == rank
        and part.get("name") == part_name(rank)
        and _is_count(part.get("size"))
        and isinstance(clients, list)
        and len(clients) == 2
        and all(map(_is_count, clients))
        and clients[0] <= clients[1]
        and isinstance(digits, str)
        and _DIGITS.fullmatch(digits) is not None
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
