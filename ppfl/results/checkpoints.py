"""Checkpoints beside a result: each rank writes a file of its own, and one small file says which of them count.

<result>.checkpoint/
    round-<n>/rank-<r>.safetensors   tensors of rank r; its numbers as JSON in the header; never pickle
    current.json                     folder, run, notes, checksums of all parts: replaced last, in one step
    previous.json                    the same of the checkpoint before, which stays in case the current one is damaged
    start/                           result and parameters that the run starts from, where it starts from any

What they hold is in `ppfl.results.checkpoint_parts`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from typing import TYPE_CHECKING, Any

import torch

from ppfl.core.agree import on_every_rank, on_first_rank
from ppfl.core.errors import UserError
from ppfl.core.files import whole_path
from ppfl.results.checkpoint_parts import (
    examine_part,
    part_name,
    read_entry,
    read_snapshot,
    write_entry,
    write_snapshot,
)
from ppfl.results.layout import checkpoint_path, kept_start_path
from ppfl.results.seal import DamagedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ppfl.core.communicator import Communicator
    from ppfl.core.snapshot import Snapshot

logger = logging.getLogger(__name__)

_CURRENT, _PREVIOUS = "current.json", "previous.json"
_NOTES = "notes"
_FACTS = 4
"""Numbers that describe a part, beside its checksum: size, first client, client after the last, rank."""


class Checkpoints:
    """The checkpoints of one run; `identity` is what a checkpoint must share with it to be continued."""

    def __init__(self, result: Path, identity: Mapping[str, Any], communicator: Communicator) -> None:
        self.folder = checkpoint_path(result)
        self._result = result
        self._identity = dict(identity)
        self._communicator = communicator
        self._notes: dict[str, str] = {}
        self._files: list[Path] = []
        self._good: dict[str, Any] | None = None

    def note(self, key: str, value: str) -> None:
        """Have checkpoints say something that a run keeps which goes on from them."""
        self._notes[key] = value

    def keep(self, files: Sequence[Path]) -> None:
        """Have a checkpoint keep files of others, under their names: a run that goes on needs them no more."""
        self._files = list(files)

    def kept(self, name: str) -> Path | None:
        """Return where one of them is; None where it is not. Collective."""
        path = kept_start_path(self._result, name)
        return path if on_first_rank(self._communicator, lambda: str(path.exists() or "")) else None

    def noted(self, key: str) -> str | None:
        """Return what the newest entry of this run says; None where there is none, or it says nothing. Collective."""

        def read() -> str:
            entries = (self._content(name, warns=False) for name in (_CURRENT, _PREVIOUS))
            notes: dict[str, Any] = next((entry.get(_NOTES, {}) for entry in entries if entry is not None), {})
            return str(notes.get(key, ""))

        return on_first_rank(self._communicator, read) or None

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

        # before anything is written: a job that has lost its claim must not touch the folder, which is another job's
        # now
        on_first_rank(communicator, check)
        # every rank has flushed its part before any rank gets beyond this line, and only then is the checkpoint named
        described = on_every_rank(communicator, lambda: _write_part(folder, communicator.rank, snapshot))
        parts = communicator.allgather_rows(torch.tensor([described], dtype=torch.int64)).tolist()

        # the claim is looked at once more: parts may have taken minutes to write
        def switch() -> str:
            before_switch()
            self._keep_files()
            entry = {
                **self._identity,
                "round": snapshot.round,
                "folder": folder.name,
                "num_ranks": communicator.size,
                _NOTES: self._notes,
                "parts": [_describe_part(numbers) for numbers in parts],
            }
            try:
                self._switch(entry)
            except OSError as error:
                raise _refused(self.folder, error) from error
            return ""

        on_first_rank(communicator, switch)

    def load(self, clients: range) -> Snapshot | None:
        """Return the newest good checkpoint. Collective; see `candidates`."""
        return next(self.candidates(clients), None)

    def candidates(self, clients: range) -> Iterator[Snapshot]:
        """Yield what rank 0 wrote for all and the states of some clients, of good checkpoints, the newest first.

        Collective. Warns of every one that is there and cannot be used, with the reason. Who asks for the next one has
        not been able to use the one before.
        """
        for name in (_CURRENT, _PREVIOUS):
            text = on_first_rank(self._communicator, lambda name=name: self._read_entry(name))  # type: ignore[misc]
            if not text:
                continue
            entry = json.loads(text)
            try:
                on_every_rank(self._communicator, lambda entry=entry: self._examine(entry))  # type: ignore[misc]
                snapshot = on_every_rank(self._communicator, lambda entry=entry: self._read(entry, clients))  # type: ignore[misc]
            except UserError as error:
                self.warn(entry["round"], str(error))
                continue
            self._good = entry
            yield snapshot
            self._good = None

    def warn(self, round: int, why: str) -> None:
        """Say on rank 0 why a checkpoint is not used."""
        self._warn(f"checkpoint of round {round}", why)

    def _keep_files(self) -> None:
        # the one that is looked for comes last
        for path in reversed(self._files):
            target = kept_start_path(self._result, path.name)
            try:
                target.parent.mkdir(exist_ok=True)
                if not target.exists():
                    _link(path, target)
            except OSError as error:
                raise _refused(target, error) from error

    def _switch(self, entry: dict[str, Any]) -> None:
        # the one before is named as such first: at no moment does no good checkpoint have a name
        if self._good is not None and self._good["folder"] != entry["folder"]:
            write_entry(self.folder / _PREVIOUS, self._good)
        else:
            (self.folder / _PREVIOUS).unlink(missing_ok=True)
        # from here on this is the checkpoint; folders are removed after it, and a kill leaves one too many, not one
        # too few
        write_entry(self.folder / _CURRENT, entry)
        kept = {entry["folder"], self._good["folder"] if self._good else entry["folder"]}
        self._good = entry
        for path in self.folder.glob("round-*"):
            if path.name not in kept:
                # what cannot be removed now, as on a file system that keeps files that are open, is tried again by
                # the next one
                shutil.rmtree(path, ignore_errors=True)

    def _read_entry(self, name: str) -> str:
        """Return an entry as text, "" when there is none that could be of this run."""
        content = self._content(name, warns=True)
        return "" if content is None else json.dumps(content)

    def _content(self, name: str, *, warns: bool) -> dict[str, Any] | None:
        path, warn = self.folder / name, self._warn if warns else _say_nothing
        try:
            content = read_entry(path)
        except FileNotFoundError:
            return None
        except (OSError, DamagedError) as error:
            warn(f"{path.name} of the checkpoints", f"is damaged ({error})")
            return None
        for key, mine in self._identity.items():
            if content.get(key) != mine:
                warn(
                    f"checkpoint of round {content['round']}",
                    f"is of another run: its {key} is {content.get(key)}, here it is {mine}",
                )
                return None
        return content

    def _examine(self, entry: Mapping[str, Any]) -> None:
        """Compare some parts with their checksums, each on one rank."""
        rank, size = self._communicator.rank, self._communicator.size
        # dealt over ranks, whichever wrote them: all together read every byte once
        for part in entry["parts"][rank::size]:
            examine_part(self.folder / entry["folder"], part)

    def _read(self, entry: Mapping[str, Any], clients: range) -> Snapshot:
        """Read what a rank with some clients needs."""
        folder = self.folder / entry["folder"]
        needed = []
        for part in entry["parts"]:
            first, stop = part["clients"]
            # rank 0 wrote what all need; of the others only those whose clients are now ours, on any number of ranks
            if part["rank"] == 0 or range(max(first, clients.start), min(stop, clients.stop)):
                needed.append(folder / part["name"])
        return read_snapshot(entry["round"], clients, needed)

    def _warn(self, what: str, why: str) -> None:
        if self._communicator.rank == 0:
            logger.warning("%s: the %s %s; it is not used", self.folder, what, why)


def _link(path: Path, target: Path) -> None:
    """Give a file that is never written again another name, or copy it where file systems do not do that."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        with whole_path(target) as partial:
            shutil.copyfile(path, partial)


def _write_part(folder: Path, rank: int, snapshot: Snapshot) -> list[int]:
    """Write the part of a rank; return its size, first client, client after the last, rank, 32 bytes of checksum."""
    path = folder / part_name(rank)
    try:
        if folder.is_symlink():
            folder.unlink()  # whatever it points to is not ours
        folder.mkdir(parents=True, exist_ok=True)
        size, digits = write_snapshot(path, snapshot, with_numbers=rank == 0)
    except OSError as error:
        raise _refused(path, error) from error
    # numbers alone, so that one gather of integers tells rank 0 of all parts
    return [size, snapshot.clients.start, snapshot.clients.stop, rank, *bytes.fromhex(digits)]


def _describe_part(numbers: list[int]) -> dict[str, Any]:
    size, first, stop, rank = numbers[:_FACTS]
    checksum = bytes(numbers[_FACTS:]).hex()
    return {"name": part_name(rank), "rank": rank, "clients": [first, stop], "size": size, "sha256": checksum}


def _say_nothing(what: str, why: str) -> None:
    """Leave it to `candidates`, which reads the same entries."""


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot write the checkpoint ({error})")
