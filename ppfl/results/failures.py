"""Why the last attempt at a run failed: `<result>.failed.json`, and `<result>.rank-<r>.log` with the whole story.

    write_failure(out, Failure.of(error, digest, cell=…))    an exception, its traceback as log_tail
    write_failure(out, Failure(digest=…, reason="killed by SIGKILL (out of memory?)", …))
    read_failure(out)         Failure or None
    remove_failure(out)       the note and the logs of all ranks: after a success

The first death of an attempt is its cause: where a note exists, `write_failure` leaves it and returns False. Whoever
begins an attempt therefore removes the note of the one before. `ppfl.experiment.run` does both, and writes a note for
every exception that ends a run; what is left to others are processes that died without a word.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import signal
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ppfl.core.errors import UserError
from ppfl.results.exclusive import put_once
from ppfl.results.layout import failed_path

TAIL_LINES = 40


def now() -> str:
    """Return the time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What ended an attempt."""

    digest: str
    cell: str = ""
    """What varies in a grid, in words; empty outside of one."""
    reason: str
    """One line: exception or signal."""
    rank: int = 0
    host: str = field(default_factory=platform.node)
    round: int | None = None
    """Rounds that were done; None when it had not begun."""
    when: str = field(default_factory=now)
    """ISO 8601 in UTC."""
    log_tail: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, error: BaseException, digest: str, *, cell: str = "", rank: int = 0, round: int | None = None
    ) -> Failure:
        """Return what an exception says, its traceback as log_tail; a UserError says all in its message."""
        message = " ".join(str(error).split())
        if isinstance(error, UserError) and message:
            return cls(digest=digest, cell=cell, reason=message, rank=rank, round=round)
        tail = "".join(traceback.format_exception(error)).splitlines()[-TAIL_LINES:]
        reason = f"{type(error).__name__}: {message}" if message else type(error).__name__
        return cls(digest=digest, cell=cell, reason=reason, rank=rank, round=round, log_tail=tuple(tail))


def describe_exit(code: int) -> str:
    """Say in words how a process ended, given its code as `subprocess` and `os.waitstatus_to_exitcode` tell it."""
    if code >= 0:
        return f"the process ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"the process was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"


def write_failure(result: Path, failure: Failure) -> bool:
    """Write the note, whole or not at all, unless there is one. Returns whether it was written.

    A disk that refuses is no reason to hide the failure itself: then nothing is written.
    """
    path = failed_path(result)
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(asdict(failure), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return put_once(partial, path)  # unlike a rename it never replaces
    except OSError:
        return False
    finally:
        with suppress(OSError):
            partial.unlink()


def read_failure(result: Path) -> Failure | None:
    """Return the note; None when there is none, or none that can be read."""
    try:
        found: Any = json.loads(failed_path(result).read_text(encoding="utf-8"))
        known = {entry.name: found[entry.name] for entry in fields(Failure) if entry.name in found}
        return Failure(**{**known, "log_tail": tuple(known.get("log_tail", ()))})
    except (OSError, ValueError, TypeError):
        return None


def remove_failure(result: Path) -> None:
    """Remove the note and the logs of ranks; logs are looked for only where there is a note."""
    if failed_path(result).exists():  # a folder may hold thousands of results, and none of them failed
        for log in rank_logs(result):
            log.unlink(missing_ok=True)
        failed_path(result).unlink(missing_ok=True)


def write_rank_log(result: Path, failure: Failure) -> None:
    """Write what one rank left: rank, host, round, reason, and the lines of `log_tail`."""
    done = "before the first round" if failure.round is None else f"after round {failure.round}"
    lines = [f"{failure.when} rank {failure.rank} on {failure.host}, {done}: {failure.reason}", *failure.log_tail]
    with suppress(OSError):
        rank_log_path(result, failure.rank).write_text("\n".join(lines) + "\n", encoding="utf-8")


def rank_log_path(result: Path, rank: int) -> Path:
    """Return where a rank that died has its log."""
    return result.with_name(f"{result.name}.rank-{rank}.log")


def rank_logs(result: Path) -> list[Path]:
    """Return the logs that there are."""
    return sorted(result.parent.glob(f"{glob.escape(result.name)}.rank-*.log"))
