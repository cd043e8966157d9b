"""Calls of functions that return samples of clients, each made once a process, and what it returned remembered.

The hash of what a call returned goes along to other processes with the settings, so that a function which returns other
arrays there is found out.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from ppfl.core.errors import USER_ERROR, UserError
from ppfl.datasets._returned import ReturnedSamples

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ppfl.core.source_function import SourceFunction

MOST_KEPT_BYTES = 1 << 30
"""Arrays of all calls together that are kept; those of the last call are, however large."""
ALWAYS_THE_SAME = "allowed: the same for the same arguments, with a seed for what is random"
Key = tuple[str, str, str]

_hashes: dict[Key, str] = {}
_kept: dict[Key, ReturnedSamples] = {}
"""From the one that was asked for longest ago to the last one."""
_one_at_a_time = threading.RLock()
"""Runs of a pack go side by side, and what a function leaves in its module is its own matter."""


def returned_by(function: SourceFunction, arguments: Mapping[str, Any]) -> ReturnedSamples:
    """Return what a function returns for these arguments.

    Raises UnfitArgumentsError for arguments that do not suit, UserError where the function fails, returns something
    else than samples of clients, or other ones than before, here or in the process that settings come from.
    """
    key = _key(function, arguments)
    with _one_at_a_time:
        found = _kept.pop(key, None) or _call(key, function, arguments)
        _kept[key] = found
        while len(_kept) > 1 and sum(one.num_bytes for one in _kept.values()) > MOST_KEPT_BYTES:
            _kept.pop(next(iter(_kept)))
        return found


def hash_of(function: SourceFunction, arguments: Mapping[str, Any]) -> str:
    """Return the hash of what it returns; raises as `returned_by` does."""
    return _hashes.get(_key(function, arguments)) or returned_by(function, arguments).sha256


def known_hash(function: SourceFunction, arguments: Mapping[str, Any]) -> str | None:
    """Return the hash of what it returned, None where it was not called yet."""
    return _hashes.get(_key(function, arguments))


def expect(function: SourceFunction, arguments: Mapping[str, Any], sha256: str | None) -> None:
    """Let the function return what it returned in another process, or be refused."""
    if sha256 is not None:
        _hashes.setdefault(_key(function, arguments), sha256)


def _call(key: Key, function: SourceFunction, arguments: Mapping[str, Any]) -> ReturnedSamples:
    where, process = f"{function.files.path}, {function.name}", os.getpid()
    try:
        # what a command prints may be read by another one
        with redirect_stdout(sys.stderr), _as_it_was():
            found = _looked_at(function.bind(arguments, {})(), function, where)
    finally:
        if os.getpid() != process:
            _end_fork(where)
    if _hashes.setdefault(key, found.sha256) != found.sha256:
        raise UserError(f"{where}: returns other arrays than when it was called before; {ALWAYS_THE_SAME}")
    return found


def _looked_at(returned: object, function: SourceFunction, where: str) -> ReturnedSamples:
    """Check and copy what was returned, which may be objects that run more of the function's file."""
    try:
        return ReturnedSamples.look_at(returned, where)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if not function.files.has_run(error):
            raise
        why = str(error).split("\n", 1)[0]
        raise UserError(f"{function.files.where(error)}: {type(error).__name__}: {why}") from error


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Undo what a function does to the whole process: results would be written to the folder that it went to."""
    folder, dtype = os.open(".", os.O_RDONLY | os.O_CLOEXEC), torch.get_default_dtype()
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)
        torch.set_default_dtype(dtype)


def _end_fork(where: str) -> NoReturn:
    """End a process that the function forked and that came back: it would be a second run of the same command."""
    os.write(
        2,
        f"ppfl: error: {where}: a process that it forked came back; it must end by os._exit\n".encode(
            errors="surrogateescape"
        ),
    )
    os._exit(USER_ERROR)


def _key(function: SourceFunction, arguments: Mapping[str, Any]) -> Key:
    # with the folder in it: a function may read files beside its own
    return function.files.package, function.name, json.dumps(arguments, sort_keys=True)
