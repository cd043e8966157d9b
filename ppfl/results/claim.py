"""The claim on a result, `<result>.running.json`: who works on it, and how far it is. No file locks are needed.

It is created by putting a file of one's own to this name (`ppfl.results.exclusive`), which succeeds at most once on any
file system, also on a shared one. A thread refreshes it while the run lasts. One that has not been refreshed for
`STALE_SECONDS`, or whose process is known to be gone, is removed by whoever wants the run; of several takers one does
so at a time, lest a slow one removes the claim of a fast one. A claim that is lost to another is noticed before the
next write (`Claim.check`).
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ppfl.core.errors import UserError
from ppfl.results.exclusive import put_once
from ppfl.results.failures import now
from ppfl.results.layout import STALE_SECONDS, running_path

BEAT_SECONDS = 5.0
DOUBTFUL_SECONDS = 15.0
"""Age after which a claim may be a dead one: whoever wants the run waits to see."""
_POLL_SECONDS = 0.5
_TURN_SECONDS = 0.05
_HELD: set[str] = set()
"""Tokens of the claims of this process."""
_AT_WORK, _NOT_OURS = "another job is at work on it", "is no longer ours"
CLAIMED_WORDS = (_AT_WORK, _NOT_OURS)
"""One of them is in the message of every ClaimedError, for those who see nothing but what a process has printed."""


class ClaimedError(UserError):
    """The result is another job's: it was so before, or has become so."""


def is_claimed(error: BaseException) -> bool:
    """Say whether an error is that the result is another job's, also when all ranks raise it together."""
    return isinstance(error, ClaimedError) or isinstance(error.__cause__, ClaimedError)


class Claim:
    """A claim that this process holds until `release`, or until it ends, however it ends."""

    def __init__(self, result: Path, num_ranks: int, rounds: int) -> None:
        """Claim a result.

        Raises ClaimedError when another job is at work on it (who, where, and when it was last seen), UserError when
        nothing can be written there.
        """
        self.path = running_path(result)
        self.is_lost = False
        self.token = secrets.token_hex(8)
        self._result = result
        self._facts: dict[str, Any] = {
            "pid": os.getpid(),
            "host": platform.node(),
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0),
            "token": self.token,
            "num_ranks": num_ranks,
            "started": now(),
        }
        self._rounds = rounds
        self._round = 0
        self._began = (time.monotonic(), 0)
        self._owner = threading.current_thread()
        self._released = threading.Event()
        self._writing = threading.Lock()
        self._take()
        _HELD.add(self.token)
        threading.Thread(target=self._beat, name="claim", daemon=True).start()

    def begin(self, round: int) -> None:
        """Say at which round the work begins: rates are counted from here."""
        self._round = round
        self._began = (time.monotonic(), round)

    def tell(self, round: int) -> None:
        """Say how far it is; shown with the next beat."""
        self._round = round

    @property
    def round(self) -> int:
        """What was told last."""
        return self._round

    def check(self) -> None:
        """Raise ClaimedError unless the claim is still one's own."""
        for _ in range(4):
            found = _read(self.path)
            if found is not None and found["token"] == self.token:
                return
            if found is not None:
                break
            time.sleep(_POLL_SECONDS / 2)  # somebody may have taken it by mistake and be putting it back
        self.is_lost = True
        who = _name(found, self.path) if found is not None else "its claim has been removed"
        raise ClaimedError(f"--out {self._result}: {_NOT_OURS}: {who}; nothing more is written")

    def release(self) -> None:
        """Let others have the result; a claim that is not one's own any more stays."""
        self._released.set()
        with self._writing:
            _HELD.discard(self.token)
            found = _read(self.path)
            if found is not None and found["token"] == self.token:
                self.path.unlink(missing_ok=True)

    def _take(self) -> None:
        mine = self._write_own()
        try:
            deadline = time.monotonic() + STALE_SECONDS
            is_second_look = False
            while not self._put(mine, self.path):
                found = _read(self.path)
                if found is None:
                    continue
                age = _age(self.path, mine)
                if age >= STALE_SECONDS or _is_dead(found, self._facts):
                    self._take_over(found["token"], mine)
                elif (age < DOUBTFUL_SECONDS and is_second_look) or time.monotonic() > deadline:
                    who = _name(found, self.path)
                    raise ClaimedError(f"--out {self._result}: {who}; wait for its end, or stop it")
                else:  # it may be about to end, as after the end of a launcher that has just killed it
                    time.sleep(_POLL_SECONDS)
                    os.utime(mine)
                    is_second_look = True
        finally:
            mine.unlink(missing_ok=True)

    def _take_over(self, dead: str, mine: Path) -> None:
        """Remove a dead claim unless it has gone; return without when another taker is at it."""
        turn = self.path.with_name(f".{self.path.name}.turn")
        if not self._put(mine, turn):
            if _age(turn, mine) >= STALE_SECONDS:  # whoever had it was killed
                turn.unlink(missing_ok=True)
            time.sleep(_TURN_SECONDS)
            os.utime(mine)
            return
        try:
            found = _read(self.path)
            if found is not None and found["token"] == dead:
                self._remove(dead)
        finally:
            turn.unlink(missing_ok=True)

    def _remove(self, dead: str) -> None:
        """Remove a dead claim with what its owner was writing, and put back what turns out to be another one."""
        aside = self.path.with_name(f".{self.path.name}.{self.token}.stale")
        with suppress(FileNotFoundError):
            self.path.rename(aside)
            found = _read(aside)
            if found is not None and found["token"] != dead:
                self._put(aside, self.path)
            else:
                self._partial_of(dead).unlink(missing_ok=True)
            aside.unlink()

    def _partial_of(self, token: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{token}.partial")

    def _put(self, source: Path, target: Path) -> bool:
        """Put a file to a name unless that is taken; say whether it is there now."""
        try:
            return put_once(source, target)
        except OSError as error:
            raise self._refused(error) from error

    def _write_own(self) -> Path:
        """Write the claim as it is now to a name of its own."""
        partial = self._partial_of(self.token)
        (began, first), done = self._began, self._round
        elapsed = time.monotonic() - began
        rate = (done - first) / elapsed if elapsed > 0 else 0.0
        left = (self._rounds - done) / rate if rate > 0 else None
        progress = {"round": done, "rounds": self._rounds, "rounds_per_second": rate, "seconds_left": left}
        text = json.dumps({**self._facts, "updated": time.time(), **progress})
        try:
            partial.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise self._refused(error) from error
        return partial

    def _refused(self, error: OSError) -> UserError:
        return UserError(f"--out {self._result}: cannot write into {self.path.parent}: {error.strerror}")

    def _beat(self) -> None:
        """Refresh the claim until it is released, lost, or whoever took it is gone."""
        while not self._released.wait(BEAT_SECONDS) and self._owner.is_alive():
            with self._writing, suppress(OSError, UserError):  # a disk that refuses now may not do so next time
                found = None if self._released.is_set() else _read(self.path)
                if found is None or found["token"] != self.token:
                    return
                self._write_own().replace(self.path)


def _read(path: Path) -> dict[str, Any] | None:
    """Return a claim; None when there is none. One that cannot be read has the token ""."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return {"token": "", **found} if isinstance(found, dict) else {"token": ""}


def _age(path: Path, fresh: Path) -> float:
    """Seconds since a claim was refreshed, both times by the clock of the file system: clocks of hosts differ."""
    try:
        return fresh.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_dead(found: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Say whether the process behind a claim is gone for certain."""
    if mine["job"] and found.get("job") == mine["job"] and found.get("restart", 0) < mine["restart"]:
        return True  # Slurm has started this very job again
    if found.get("host") != mine["host"] or not isinstance(found.get("pid"), int):
        return False
    if found["pid"] == mine["pid"]:
        return found["token"] not in _HELD
    return has_ended(found["pid"])


def has_ended(pid: int) -> bool:
    """Say whether a process of this host is gone.

    One whose parent has not collected it yet is: an orphan may wait for seconds where init is slow, as in containers.
    """
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it belongs to another user, or there is no /proc
        return False
    state = stat.rpartition(")")[2].split()[0]  # the name before it may hold anything
    return state in "ZX"


def _name(found: dict[str, Any], path: Path) -> str:
    """Say who works on a result."""
    job = f", job {found['job']}" if found.get("job") else ""
    seen = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["updated"])) if found.get("updated") else "unknown"
    who = f"process {found.get('pid', 'unknown')} on {found.get('host', 'unknown')}{job}"
    return f"{_AT_WORK} ({who}, last seen {seen}, {path.name})"
