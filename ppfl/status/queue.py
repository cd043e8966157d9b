"""Jobs of Slurm that are to work on runs, as far as Slurm says; where it does not, there are none.

A job is known by its comment, which `ppfl submit` and the Slurm executor of Snakemake set, and by the folder in which
it was submitted.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ppfl.jobs.slurm import NoAnswerError, ask

TIMEOUT_SECONDS = 5.0
_ASK_AGAIN_SECONDS = 30.0
_FORMAT = "%i|%T|%r|%j|%k|%Z"
_COMMENTS = (
    re.compile(r"ppfl:(?P<name>[A-Za-z0-9_-]+)(?::(?P<digest>[0-9a-f]+))?"),
    re.compile(r"rule_experiment_wildcards_(?P<name>[A-Za-z0-9_-]+)_(?P<digest>[0-9a-f]+)"),
    re.compile(r"rule_pack_wildcards_(?P<name>[A-Za-z0-9_-]+)_\d+_\d+"),
)


@dataclass(frozen=True)
class Job:
    """A job that Slurm has not forgotten."""

    id: str
    state: str
    """As Slurm writes it, e.g. PENDING."""
    reason: str
    """Why it waits, e.g. Resources; "None" when it does not."""
    title: str
    digest: str | None
    """Its run; None when it works on the grid as a whole."""

    def __str__(self) -> str:
        return f"{self.state} ({self.reason})" if self.reason not in ("", "None") else self.state

    def as_json(self) -> dict[str, str]:
        """Return what is known."""
        return {"job": self.id, "state": self.state, "reason": self.reason, "name": self.title}


@dataclass
class Queue:
    """The jobs of this user that work in one folder of results; Slurm is asked twice a minute at most."""

    folder: Path
    _jobs: tuple[Job, ...] = ()
    _asked_at: float | None = field(default=None)

    def jobs(self) -> tuple[Job, ...]:
        """Return the jobs; none where Slurm is not there, refuses, hangs, or says what makes no sense."""
        now = time.monotonic()
        if self._asked_at is None or now - self._asked_at > _ASK_AGAIN_SECONDS:
            self._jobs = tuple(filter(None, map(self._job, _ask().splitlines())))
            self._asked_at = now
        return self._jobs

    def _job(self, line: str) -> Job | None:
        # the folder is last, and may hold a separator
        parts = line.split("|", _FORMAT.count("|"))
        if len(parts) <= _FORMAT.count("|"):
            return None
        id, state, reason, title, comment, submitted_in = parts
        found = next((match for pattern in _COMMENTS if (match := pattern.fullmatch(comment))), None)
        if found is None or not _same(Path(submitted_in) / "results" / found["name"], self.folder):
            return None
        return Job(id, state, reason, title, found.groupdict().get("digest"))


def _same(one: Path, other: Path) -> bool:
    try:
        # the same folder may have two names: by links, or by mounts of a site
        return one.resolve() == other.resolve()
    except (OSError, ValueError, RuntimeError):  # a loop of links
        return False


def _ask() -> str:
    with suppress(NoAnswerError):
        return ask(["squeue", "--me", "--noheader", f"--format={_FORMAT}"], seconds=TIMEOUT_SECONDS)
    return ""
