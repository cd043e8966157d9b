"""Reads claims, notes and requests, the small JSON files beside a result; what lies there instead is only unreadable.

They may be of another host, user or version, cut off, huge, no JSON, or no file at all (a folder, a pipe, a link to
nothing). Everybody who shows or judges them reads them here, so that one of them keeps nobody from the others.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 20
"""Of a file that is read; ours have a few thousand."""
_MAX_TEXT = 4000
_MAX_LINES = 200
_MAX_NUMBER = 1 << 53


@dataclass(frozen=True)
class Note:
    """What lies at a name."""

    modified: float
    """When it was written, by the clock of the file system."""
    owner: int
    """User id."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """The keys that were asked for and have values that make sense; {} when nothing does."""


def read_note(path: Path, kinds: Mapping[str, Callable[[Any], Any]], max_bytes: int = MAX_BYTES) -> Note | None:
    """Return what lies at `path`; None when nothing does.

    kinds: of each wanted key a function that returns the value, or None for one that makes no sense. Nothing of a file
    with more than `max_bytes` does.
    """
    try:
        there = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return Note(0.0, -1)
    try:
        # a pipe would be waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Note(there.st_mtime, there.st_uid)
    try:
        there = os.fstat(descriptor)  # of a shared file system, what opening has just asked for
        content = _content(descriptor, there, max_bytes)
    except OSError:
        content = b""
    finally:
        os.close(descriptor)
    found = _parse(content)
    said = {key: value for key, kind in kinds.items() if key in found and (value := kind(found[key])) is not None}
    return Note(there.st_mtime, there.st_uid, said)


def _content(descriptor: int, there: os.stat_result, max_bytes: int) -> bytes:
    if not stat.S_ISREG(there.st_mode) or there.st_size > max_bytes:
        return b""
    content = b""
    # it may grow while it is read, hence the limit here, too
    while len(content) <= max_bytes and (part := os.read(descriptor, max_bytes + 1 - len(content))):
        content += part
    return content if len(content) <= max_bytes else b""


def _parse(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):  # the last one: ten thousand brackets
        return {}
    return found if isinstance(found, dict) else {}


def text(value: Any) -> str | None:
    """Return one printable line of bounded length, None for what is no text."""
    if not isinstance(value, str):
        return None
    return " ".join(_printable(value).split())


def lines(value: Any) -> tuple[str, ...] | None:
    """Return printable lines, with the spaces that they begin with; None for what is no list of texts."""
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        return None
    return tuple(map(_printable, value[:_MAX_LINES]))


def count(value: Any) -> int | None:
    """Return a whole number ≥ 0 that a float holds exactly."""
    # true and false are whole numbers to Python
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_NUMBER
    return value if is_count else None


def flag(value: Any) -> bool | None:
    """Return true or false, None for what is neither."""
    return value if isinstance(value, bool) else None


def number(value: Any) -> float | None:
    """Return a finite number ≥ 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < _MAX_NUMBER else None


def _printable(line: str) -> str:
    # escapes would be commands to the terminal on which the note is shown
    return "".join(c if c.isprintable() else " " for c in line[:_MAX_TEXT])
