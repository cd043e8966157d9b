"""Checkpoints beside a result: each rank writes a file of its own, and one small file says which of them count.

<result>.checkpoint/
    round-<n>/rank-<r>.safetensors   tensors of rank r; its numbers as JSON in the header; never pickle
    current.json                     folder, run, checksums of all parts: replaced last, in one step
    previous.json                    the same of the checkpoint before, which stays in case the current one is damaged

Parts have a name that begins with a dot until they are on the disk as a whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ppfl.core.agree import on_every_rank, on_first_rank
from ppfl.core.errors import UserError
from ppfl.core.snapshot import Snapshot, client_of
from ppfl.results.layout import checkpoint_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ppfl.core.communicator import Communicator

logger = logging.getLogger(__name__)

_CURRENT, _PREVIOUS = "current.json", "previous.json"
_FACTS = 4
"""Numbers that describe a part, beside its checksum: size, first client, client after the last, rank."""


class Checkpoints:
    """The checkpoints of one run; `identity` is what a checkpoint must share with it to be continued."""

    def __init__(self, result: Path, identity: Mapping[str, Any], communicator: Communicator) -> None:
        self.folder = checkpoint_path(result)
        self._identity = dict(identity)
        self._communicator = communicator
        self._good: dict[str, Any] | None = None

    def save(self, snapshot: Snapshot, before_switch: Callable[[], None] = lambda: None) -> None:
        """Write a checkpoint and make it the current one. Collective.

        before_switch: called on rank 0 before anything is written and once more before the switch; a UserError of it
        ends all ranks. Raises SharedUserError when a disk refuses: the checkpoint before stays the current one.
        """
        communicator = self._communicator
        folder = self.folder / f"round-{snapshot.round}"

        def check() -> str:
            before_switch()
            return ""

        on_first_rank(communicator, check)
        described = on_every_rank(communicator, lambda: _write_part(folder, communicator.rank, snapshot))
        parts = communicator.allgather_rows(torch.tensor([described], dtype=torch.int64)).tolist()

        def switch() -> str:
            before_switch()
            entry = {
                **self._identity,
                "round": snapshot.round,
                "folder": folder.name,
                "num_ranks": communicator.size,
                "parts": [_describe_part(numbers) for numbers in parts],
            }
            _refused_by_disk(self.folder, lambda: self._switch(entry))
            return ""

        on_first_rank(communicator, switch)

    def load(self, clients: range) -> Snapshot | None:
        """Return what rank 0 wrote for all and the states of some clients, of the newest good checkpoint. Collective.

        None when there is none; warns of every one that is there and cannot be used, with the reason.
        """
        for name in (_CURRENT, _PREVIOUS):
            text = on_first_rank(self._communicator, lambda name=name: self._read_entry(name))  # type: ignore[misc]
            if not text:
                continue
            entry = json.loads(text)
            damage = self._damage(entry)
            if not damage:
                self._good = entry
                return self._read(entry, clients)
            self._warn(f"checkpoint of round {entry['round']}", damage)
        return None

    def _switch(self, entry: dict[str, Any]) -> None:
        if self._good is not None and self._good["folder"] != entry["folder"]:
            _write_entry(self.folder / _PREVIOUS, self._good)
        else:
            (self.folder / _PREVIOUS).unlink(missing_ok=True)
        _write_entry(self.folder / _CURRENT, entry)
        kept = {entry["folder"], self._good["folder"] if self._good else entry["folder"]}
        self._good = entry
        for path in self.folder.glob("round-*"):
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _read_entry(self, name: str) -> str:
        """Return an entry as text, "" when there is none that could be of this run."""
        path = self.folder / name
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            content = {key: value for key, value in entry.items() if key != "checksum"}
            if entry.get("checksum") != _checksum(content):
                raise ValueError("its checksum is another one")
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, AttributeError) as error:
            self._warn(f"{path.name} of the checkpoints", f"is damaged ({error})")
            return ""
        for key, mine in self._identity.items():
            if content.get(key) != mine:
                self._warn(
                    f"checkpoint of round {content.get('round')}",
                    f"is of another run: its {key} is {content.get(key)}, here it is {mine}",
                )
                return ""
        return json.dumps(content)

    def _damage(self, entry: Mapping[str, Any]) -> str:
        """Compare all parts with their checksums, each on one rank; return what is wrong, or "". Collective."""
        rank, size = self._communicator.rank, self._communicator.size

        def examine() -> None:
            for part in entry["parts"][rank::size]:
                if complaint := _examine_part(self.folder / entry["folder"] / part["name"], part):
                    raise UserError(complaint)

        try:
            on_every_rank(self._communicator, examine)
        except UserError as error:
            return str(error)
        return ""

    def _read(self, entry: Mapping[str, Any], clients: range) -> Snapshot:
        """Read what a rank with some clients needs. Collective."""

        def read() -> Snapshot:
            numbers: dict[str, Any] = {}
            tensors: dict[str, torch.Tensor] = {}
            for part in entry["parts"]:
                first, stop = part["clients"]
                if part["rank"] != 0 and not range(max(first, clients.start), min(stop, clients.stop)):
                    continue
                path = self.folder / entry["folder"] / part["name"]
                try:
                    found, read_tensors = _read_part(path, clients)
                except (OSError, SafetensorError, ValueError, KeyError) as error:
                    raise UserError(f"{path}: cannot be read any more: {error}") from error
                tensors |= read_tensors
                numbers = found if part["rank"] == 0 else numbers
            return Snapshot(entry["round"], clients, numbers, tensors)

        return on_every_rank(self._communicator, read)

    def _warn(self, what: str, why: str) -> None:
        if self._communicator.rank == 0:
            logger.warning("%s: the %s %s; it is not used", self.folder, what, why)


def _write_part(folder: Path, rank: int, snapshot: Snapshot) -> list[int]:
    """Write the part of a rank; return its size, first client, client after the last, rank, 32 bytes of checksum."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in snapshot.tensors.items()}
    # the order of names is part of the state, and safetensors has one of its own
    header = {"names": list(tensors), "numbers": snapshot.numbers if rank == 0 else {}}
    content = save(tensors, metadata={"state": json.dumps(header)})
    path = folder / _part_name(rank)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_whole(path, content)

    _refused_by_disk(path, write)
    clients = snapshot.clients
    return [len(content), clients.start, clients.stop, rank, *hashlib.sha256(content).digest()]


def _read_part(path: Path, clients: range) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the numbers of a part and its tensors, those of other clients left out."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["state"])
        wanted = [name for name in header["names"] if (client := client_of(name)) is None or client in clients]
        return header["numbers"], {name: file.get_tensor(name).clone() for name in wanted}


def _examine_part(path: Path, part: Mapping[str, Any]) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"is damaged: {path.name}: {error.strerror}"
    if len(content) != part["size"]:
        return f"is damaged: {path.name} has {len(content)} bytes instead of {part['size']}"
    if hashlib.sha256(content).hexdigest() != part["sha256"]:
        return f"is damaged: {path.name} has another checksum"
    return ""


def _describe_part(numbers: list[int]) -> dict[str, Any]:
    size, first, stop, rank = numbers[:_FACTS]
    checksum = bytes(numbers[_FACTS:]).hex()
    return {"name": _part_name(rank), "rank": rank, "clients": [first, stop], "size": size, "sha256": checksum}


def _part_name(rank: int) -> str:
    return f"rank-{rank}.safetensors"


def _write_entry(path: Path, entry: Mapping[str, Any]) -> None:
    _write_whole(path, json.dumps({**entry, "checksum": _checksum(entry)}, indent=1).encode())


def _checksum(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def _refused_by_disk(path: Path, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        raise UserError(f"{path}: cannot write the checkpoint ({error})") from error
