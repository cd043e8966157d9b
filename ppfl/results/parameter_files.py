"""The files of parameters of one run, or one from outside: headers read, tensors when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.results.layout import shared_path
from ppfl.results.parameters import local_parts
from ppfl.results.quick_reader import client_names_of
from ppfl.results.tensor_file import TensorFile, open_checked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class ParameterFiles:
    """θ in one file, and each client's own parameters in those that ranks wrote, where there are any.

    Every file is compared with its checksum before the first tensor of it is handed out.
    """

    def __init__(self, where: Path, shared: Path, parts: Sequence[Path] = (), result: Path | None = None) -> None:
        """Read headers. Raises UserError for what cannot be read or is damaged."""
        self.where = where
        self.shared = _opened(shared)
        self.has_clients = result is not None
        """Whether they are of a run."""
        self._result = result
        self.of_the_run = (result, shared, *parts) if result is not None else ()
        """All of them, the result first; none of a file from outside."""
        self._parts: dict[str, TensorFile | Path] = {}
        self._part_of: dict[int, Path] = {}
        names: set[str] = set()
        for part in parts:
            for key in _header(part).names:
                client, _, name = key.partition("/")
                if not client.isdecimal():
                    raise UserError(f"{part}: names no client ({key!r}); run anew with save.local: true")
                self._part_of[int(client)] = part
                names.add(name)
        self.own_names = frozenset(names)
        """Names of what clients have of their own."""
        self._numbers: list[int] = []
        self._checked: dict[Path, TensorFile] = {}

    @classmethod
    def of_run(cls, result: Path) -> ParameterFiles:
        """Open those of a complete run."""
        return cls(result, shared_path(result), local_parts(result), result)

    @classmethod
    def of_file(cls, path: Path) -> ParameterFiles:
        """Open a file from outside, {parameter: tensor}."""
        return cls(path, path)

    @property
    def client_names(self) -> tuple[str, ...]:
        """Clients that trained there; none of a file from outside."""
        return client_names_of(self._result) if self._result is not None else ()

    def follow(self, client_names: Sequence[str]) -> None:
        """Find out which clients these are there. Raises UserError for one that is not there, or has nothing there."""
        assert self._result is not None
        there = {name: number for number, name in enumerate(client_names_of(self._result))}
        if missing := [name for name in client_names if there.get(name) not in self._part_of]:
            raise UserError(
                f"start: {self.where}: has no parameters of client {missing[0]!r} of this run"
                f"{f' and {len(missing) - 1} others' if len(missing) > 1 else ''}; allowed: the same clients, by name"
            )
        self._numbers = [there[name] for name in client_names]

    def of_client(self, client: int) -> tuple[TensorFile, int]:
        """Return where the parameters of a client of this run are, and its number there."""
        number = self._numbers[client]
        part = self._part_of[number]
        # a checksum is over a whole file: once for each that has clients of this rank, and none of the others
        if part not in self._checked:
            self._checked[part] = _opened(part)
        return self._checked[part], number


def _opened(path: Path) -> TensorFile:
    try:
        return open_checked(path)[0]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _header(path: Path) -> TensorFile:
    try:
        return TensorFile(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
