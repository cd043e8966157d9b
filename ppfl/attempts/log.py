"""What a run has said, attempt by attempt."""

from __future__ import annotations

import time
from io import TextIOWrapper
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain
from ppfl.jobs.failures import rank_logs, read_failure
from ppfl.jobs.owner import Watch
from ppfl.jobs.run_log import tries
from ppfl.jobs.states import states_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_LOOK_SECONDS = 0.5
_PIECE = 1 << 16
"""Characters held at once: a log may be of any size."""


def log_of(places: Sequence[Path], number: int | None) -> tuple[Path, str]:
    """Return the log of an attempt at a run (default: the last), and in words which one it is.

    Raises UserError when there is none.
    """
    found = tries(places[0])
    if not found:
        raise UserError(f"{places[0]}: no attempt at this run has left a log")
    number = max(found) if number is None else number
    if number not in found:
        raise UserError(f"--try {number}: no such log; there are {', '.join(map(str, found))}")
    return found[number], f"try {number} of {', '.join(map(str, found))}: {found[number]}"


def show(log: Path, places: Sequence[Path], *, follow: bool, write: Callable[[str], None]) -> None:
    """Write a log, and while somebody is at work on the run and `follow` is wanted, what comes.

    Raises UserError when it cannot be read.
    """
    watch = Watch()
    try:
        content = open_plain(log)
    except OSError as error:
        raise UserError(f"{log}: cannot be read: {error.strerror}") from error
    with TextIOWrapper(content, encoding="utf-8", errors="replace") as file:
        while True:
            # asked before the last read: what was written in between is in it
            is_over = not follow or all(state.kind != "running" for state in states_of(places, watch).values())
            while text := file.read(_PIECE):
                write(text)
            if is_over:
                return
            time.sleep(_LOOK_SECONDS)


def how_it_ended(places: Sequence[Path]) -> list[str]:
    """Return lines on why the last attempt failed, which the log of a process that was killed does not have."""
    lines = []
    for place in places:
        if (failure := read_failure(place)) is not None:
            at = "" if failure.round is None else f", round {failure.round}"
            lines.append(f"failed: {failure.reason} (rank {failure.rank} on {failure.host}{at}, {failure.when})")
            lines += [f"more in {path}" for path in rank_logs(place)]
    return lines
