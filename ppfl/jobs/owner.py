"""Who has claimed a result, as `.running.json` says, and whether that process is gone."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppfl.core.files import time_in
from ppfl.jobs.notes import count, number, read_note, text
from ppfl.results.layout import STALE_SECONDS

_AHEAD_SECONDS = 5.0
"""How far a claim may lie in the future, by the clock of the file system, before its age says nothing."""
_KINDS = {
    "token": text, "pid": count, "host": text, "job": text, "restart": count, "num_ranks": count, "started": text,
    "updated": number, "round": count, "rounds": count, "rounds_per_second": number, "seconds_left": number,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Owner:
    """What a claim says; what it does not say, or says wrongly, is None or empty."""

    modified: float
    """When it was refreshed, by the clock of the file system."""
    user: int
    """Whose file it is."""
    token: str = ""
    pid: int | None = None
    host: str = ""
    job: str = ""
    restart: int = 0
    num_ranks: int | None = None
    started: str = ""
    updated: float | None = None
    """When it was refreshed, by the clock of its host."""
    round: int | None = None
    rounds: int | None = None
    rounds_per_second: float | None = None
    seconds_left: float | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Return what it says, without what is left open."""
        return {key: value for key, value in asdict(self).items() if key in _KINDS and value not in (None, "")}

    @property
    def last_seen(self) -> str:
        """Return when it was refreshed, local time."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(min(max(self.modified, 0.0), 2**36)))

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        pid = "unknown" if self.pid is None else self.pid
        return f"process {pid} on {self.host or 'unknown'}{job}, last seen {self.last_seen}"


def read_owner(path: Path) -> Owner | None:
    """Return what the claim at `path` says; None when there is none."""
    found = read_note(path, _KINDS)
    return None if found is None else Owner(modified=found.modified, user=found.owner, **found.said)


def is_gone(owner: Owner) -> bool:
    """Say whether the process behind a claim is known to be dead: a process of this host."""
    return owner.host == platform.node() and owner.pid is not None and has_ended(owner.pid)


def has_ended(pid: int) -> bool:
    """Say whether a process of this host is gone.

    One whose parent has not collected it yet is: an orphan may wait for seconds where init is slow, as in containers.
    """
    if pid <= 0:  # to the system these are groups of processes
        return True
    try:
        # signal 0 is not sent: the system only says whether there is such a process
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it belongs to another user, or there is no /proc
        return False
    state = stat.rpartition(")")[2].split()[0]  # the name before it may hold anything
    return state in "ZX"


def age_of(owner: Owner, now: float) -> float | None:
    """Return the seconds since a claim was refreshed; None when it lies in the future, and only watching it helps.

    `now` is the time by the clock of its file system (`time_in`).
    """
    age = now - owner.modified
    return None if age < -_AHEAD_SECONDS else max(age, 0.0)


class Clocks:
    """Says how old claims are; asks each folder for its time once, and only where that matters."""

    def __init__(self) -> None:
        self._times: dict[Path, float | None] = {}

    def is_stale(self, owner: Owner, folder: Path) -> bool | None:
        """Say whether nobody is behind a claim; None when that cannot be told: nothing may be written there, or it
        lies in the future."""
        if is_gone(owner):
            return True
        if folder not in self._times:
            try:
                # a folder may hold thousands of claims, and each time costs a file on a server
                self._times[folder] = time_in(folder)
            except OSError:
                self._times[folder] = None
        now = self._times[folder]
        age = None if now is None else age_of(owner, now)
        return None if age is None else age > STALE_SECONDS


class Watch:
    """How long something has looked the same, by the clock of this process."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def look(self, name: str, looks: object) -> float:
        """Return the seconds for which `name` has looked like this; 0 the first time, and whenever it has changed."""
        # not the time of day, which somebody may set while a claim is watched
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before != looks:
            since = now
        self._seen[name] = (looks, since)
        return now - since

    def has_been_seen(self, name: str) -> bool:
        """Say whether `name` has been looked at."""
        return name in self._seen
