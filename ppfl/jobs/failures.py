"""Why the last attempt at a run failed: `<result>.failed.json`, and `<result>.rank-<r>.log` with the whole story.

    write_failure(out, Failure.of(error, digest, cell=…))    an exception, its traceback as log_tail
    write_failure(out, Failure(digest=…, reason="killed by SIGKILL (out of memory?)", …))
    read_failure(out)         Failure or None
    remove_failure(out)       the note and the logs of all ranks: after a success

The first death of an attempt is its cause: where a note exists, `write_failure` leaves it and returns False. Whoever
begins an attempt therefore removes the note of the one before. `ppfl.runs.experiment.run` does both, and writes a note
for every exception that ends a run; what is left to others are processes that died without a word.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import signal
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppfl.core.errors import UserError
from ppfl.core.files import hidden_name, write_whole
from ppfl.jobs.exclusive import put_once
from ppfl.jobs.notes import count, lines, read_note, text
from ppfl.results.layout import failed_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.jobs.owner import Owner

TAIL_LINES = 40
UNREADABLE = "it left a note that cannot be read"
_LAST_BEATS_SECONDS = 10.0
"""For so long a claim may be refreshed after the note that one of its ranks has died."""
_KINDS = {
    "digest": text, "cell": text, "reason": text, "rank": count, "host": text, "job": text, "round": count,
    "when": text, "log_tail": lines,
}  # fmt: skip


def now() -> str:
    """Return the time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


_CAUSE_SECONDS = 5.0
"""How long a rank waits for the note of another one."""


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
    job: str = field(default_factory=lambda: os.environ.get("SLURM_JOB_ID", ""))
    """Of Slurm; empty outside of one."""
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
    # the kernel ends a process that takes too much memory by SIGKILL, and so does Slurm: nobody else tells
    name = signal.Signals(-code).name
    return f"the process was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"


def write_failure(result: Path, failure: Failure) -> bool:
    """Write the note, whole or not at all, unless there is one. Returns whether it was written.

    A disk that refuses is no reason to hide the failure itself: then nothing is written.
    """
    path = failed_path(result)
    partial = hidden_name(path)
    content = json.dumps(asdict(failure), indent=1, ensure_ascii=False) + "\n"
    try:
        partial.write_text(content, encoding="utf-8", errors="replace")
        return put_once(partial, path)  # unlike a rename it never replaces
    except OSError:
        return False
    finally:
        with suppress(OSError):
            partial.unlink()


def wait_for_the_cause(result: Path, error: BaseException) -> None:
    """Give the one who knows more the time to write the note: a message that fails says that a rank has ended, and not
    why; the supervisor of that rank does."""
    deadline = time.monotonic() + _CAUSE_SECONDS
    is_of_mpi = type(error).__module__.partition(".")[0] == "mpi4py"
    while is_of_mpi and not failed_path(result).exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def read_failure(result: Path) -> Failure | None:
    """Return the note, with what makes sense in it; None when there is none, or none that says anything."""
    found = read_note(failed_path(result), _KINDS)
    return _failure(found.said) if found is not None and found.said else None


def failure_since(result: Path, owner: Owner | None) -> Failure | None:
    """Return why the attempt failed that `owner` has claimed; with None, the last attempt. None when it has not failed.

    Whoever begins removes the note of the attempt before, so a note beside a claim is of the same attempt, unless the
    claim went on to be refreshed.
    """
    found = read_note(failed_path(result), _KINDS)
    if found is None or (owner is not None and owner.modified - found.modified > _LAST_BEATS_SECONDS):
        return None
    return _failure(found.said)


def _failure(said: Mapping[str, Any]) -> Failure:
    return Failure(**{"digest": "", "reason": UNREADABLE, "host": "", "job": "", "when": ""} | dict(said))


def remove_failure(result: Path) -> None:
    """Remove the note and the logs of ranks; logs are looked for only where there is a note."""
    note = failed_path(result)
    if os.path.lexists(note):  # a folder may hold thousands of results, and none of them failed
        for path in [*rank_logs(result), note]:
            with suppress(OSError):  # of another user, perhaps: a claim that is newer says that it means nothing
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def write_rank_log(result: Path, failure: Failure) -> None:
    """Write what one rank left: rank, host, round, reason, and the lines of `log_tail`; whole or not at all."""
    done = "before the first round" if failure.round is None else f"after round {failure.round}"
    lines = [f"{failure.when} rank {failure.rank} on {failure.host}, {done}: {failure.reason}", *failure.log_tail]
    path = rank_log_path(result, failure.rank)
    with suppress(OSError):
        write_whole(path, ("\n".join(lines) + "\n").encode(errors="replace"))


def rank_log_path(result: Path, rank: int) -> Path:
    """Return where a rank that died has its log."""
    return result.with_name(f"{result.name}.rank-{rank}.log")


def rank_logs(result: Path) -> list[Path]:
    """Return the logs that there are."""
    return sorted(result.parent.glob(f"{glob.escape(result.name)}.rank-*.log"))
