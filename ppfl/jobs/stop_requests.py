"""Requests to stop, as files: `<result>.stop.json` for one run, `packs.stop.json` in a folder for the packs in it.

A signal would have to know the host, the batch system and what stands between it and the ranks; a file beside the
result reaches a run wherever it is. Rank 0 looks for it once a second, and the ranks agree as they do after a signal.

A request for a run is addressed to one attempt, by the token of its claim: the next attempt does not heed it. One for
packs is addressed to those that began before it. So nobody has to take a request back.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.core.files import write_whole
from ppfl.jobs.failures import now
from ppfl.jobs.notes import flag, read_note, text
from ppfl.results.layout import packs_stop_path, stop_path

if TYPE_CHECKING:
    from pathlib import Path

_LOOK_SECONDS = 1.0
_FORGOTTEN_SECONDS = 60.0
_KINDS = {"requeue": flag, "token": text, "job": text, "when": text}


@dataclass(frozen=True, kw_only=True)
class StopRequest:
    """What is asked for."""

    requeue: bool = False
    """Whether the job is to go on later by itself."""
    token: str = ""
    """The claim of the attempt that is meant; of requests for runs."""
    job: str = ""
    """The Slurm job of that attempt: restarted, it is still meant."""
    when: str = ""
    """ISO 8601 in UTC."""


def ask_run(result: Path, *, token: str, job: str, requeue: bool) -> None:
    """Ask the attempt that has this claim to stop. Raises UserError when the file cannot be written."""
    _write(stop_path(result), StopRequest(requeue=requeue, token=token, job=job, when=now()))


def ask_packs(folder: Path, *, requeue: bool, job: str = "") -> None:
    """Ask the packs that work in a folder now to stop, all of them or those of a Slurm job.

    Raises UserError when the file cannot be written.
    """
    _write(packs_stop_path(folder, job), StopRequest(requeue=requeue, job=job, when=now()))


def request_for(result: Path) -> StopRequest | None:
    """Return what one run was asked for last; None for nothing, or nothing that can be read."""
    return _read(stop_path(result))


def forget_run(result: Path, *, but_for: str = "") -> None:
    """Remove the request for a run, unless it is addressed to the attempt with the token `but_for`."""
    request = request_for(result) if but_for else None
    if request is None or request.token != but_for:
        _remove(stop_path(result))


def forget_packs(folder: Path, job: str = "") -> None:
    """Remove the request for packs."""
    _remove(packs_stop_path(folder, job))


class RunRequests:
    """Calling it says whether the attempt with this token was asked to stop."""

    def __init__(self, result: Path, token: str) -> None:
        self.found: StopRequest | None = None
        self._result = result
        self._token = token
        self._looked_at = float("-inf")

    def __call__(self) -> bool:
        """Look, at most once a second."""
        # a look is a request to a file server, and a round may take a millisecond
        if self.found is None and time.monotonic() - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            found = request_for(self._result)
            self.found = found if found is not None and found.token == self._token else None
        return self.found is not None


class PackRequests:
    """Calling it says whether packs that began at `began_at`, by the clock of the file system, were asked to stop."""

    def __init__(self, folder: Path, began_at: float) -> None:
        self.found: StopRequest | None = None
        job = os.environ.get("SLURM_JOB_ID", "")
        self._paths = {packs_stop_path(folder), packs_stop_path(folder, job)}
        self._began_at = began_at
        for path in self._paths:
            # an old one may be removed by any pack: packs that it meant began before it, and have seen it since
            if _written_at(path) < began_at - _FORGOTTEN_SECONDS:
                _remove(path)

    def __call__(self) -> bool:
        """Look. Each time, since a run that was asked to stop may be over before the pack that is to begin no other."""
        if self.found is None:
            recent = (_read(path) for path in self._paths if _written_at(path) >= self._began_at)
            self.found = next((request for request in recent if request is not None), None)
        return self.found is not None


def _remove(path: Path) -> None:
    with suppress(OSError):  # of another user, perhaps, or a folder: whom it meant is over, and nobody else heeds it
        path.unlink()


def _written_at(path: Path) -> float:
    """Return when a file was written; -1 when there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return -1.0


def _write(path: Path, request: StopRequest) -> None:
    try:
        write_whole(path, (json.dumps(asdict(request)) + "\n").encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written, so nobody can be asked to stop: {error.strerror}") from error


def _read(path: Path) -> StopRequest | None:
    note = read_note(path, _KINDS)
    return StopRequest(**note.said) if note is not None and note.said else None
