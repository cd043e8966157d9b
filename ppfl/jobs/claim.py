"""The claim on a result, `<result>.running.json`: who works on it, and how far it is. No file locks are needed.

It is created by putting a file of one's own to this name (`ppfl.jobs.exclusive`), which succeeds at most once on any
file system, also on a shared one. A thread refreshes it while the run lasts (`ppfl.jobs.beats`). One that has not been
refreshed for `STALE_SECONDS`, or whose process is known to be gone, is removed by whoever wants the run; of several
takers one does so at a time, lest a slow one removes the claim of a fast one. Ages are judged by the clock of the file
system; a claim that lies in its future is watched for as long. A claim that is lost to another is noticed before the
next write (`Claim.check`).
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from ppfl.core.errors import UserError
from ppfl.core.files import hidden_name
from ppfl.core.numbers import whole_number
from ppfl.jobs.beats import Beats
from ppfl.jobs.exclusive import put_once
from ppfl.jobs.failures import now
from ppfl.jobs.owner import Owner, Watch, age_of, is_gone, read_owner
from ppfl.results.layout import STALE_SECONDS, running_path

BEAT_SECONDS = 5.0
DOUBTFUL_SECONDS = 15.0
"""Age after which a claim may be a dead one: whoever wants the run waits to see."""
# short beside what it is waited for (a beat, a taker), long beside a request to a file server
_POLL_SECONDS = 0.5
_TURN_SECONDS = 0.05
_HELD: set[str] = set()
"""Tokens of the claims of this process."""
_BEATS = Beats(lambda: BEAT_SECONDS)
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
        self.has_taken_over = False
        """Whether it was that of a dead job."""
        self.token = secrets.token_hex(8)
        self._result = result
        self._facts: dict[str, Any] = {
            "pid": os.getpid(),
            "host": platform.node(),
            "job": os.environ.get("SLURM_JOB_ID", ""),
            "restart": whole_number(os.environ.get("SLURM_RESTART_COUNT", "")) or 0,
            "token": self.token,
            "num_ranks": num_ranks,
            "started": now(),
        }
        self._rounds = rounds
        self._round = 0
        self._began = (time.monotonic(), 0)
        # the thread that computes: when it ends without `release`, the beats end, and the claim becomes stale
        self._owner = threading.current_thread()
        self._is_released = False
        self._writing = threading.Lock()
        self._take()
        _HELD.add(self.token)
        _BEATS.add(self.token, self._beat)

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
            found = read_owner(self.path)
            if found is not None and found.token == self.token:
                return
            if found is not None:
                break
            time.sleep(_POLL_SECONDS / 2)  # somebody may have taken it by mistake and be putting it back
        self.lose(f"{_AT_WORK} ({found}, {self.path.name})" if found is not None else "its claim has been removed")

    def lose(self, why: str) -> None:
        """Raise ClaimedError: the result has turned out to be another job's."""
        self.is_lost = True
        raise ClaimedError(f"--out {self._result}: {_NOT_OURS}: {why}; nothing more is written")

    def release(self) -> None:
        """Let others have the result; a claim that is not one's own any more stays."""
        _BEATS.remove(self.token)
        # a beat that is just being written would put the claim back after its removal
        with self._writing:
            self._is_released = True
            _HELD.discard(self.token)
            found = read_owner(self.path)
            if found is not None and found.token == self.token:
                with suppress(OSError):  # a folder that takes no more changes: it will be stale
                    self.path.unlink()

    def _take(self) -> None:
        mine = self._write_own()
        try:
            deadline = time.monotonic() + STALE_SECONDS
            watch = Watch()
            while not self._put(mine, self.path):
                found = read_owner(self.path)
                # it went between the two looks: try again at once
                if found is None:
                    continue
                life = self._life_of(found, mine, watch)
                if life == "dead":
                    self._take_over(found, mine)
                elif life == "alive" or (life == "doubtful" and time.monotonic() > deadline):
                    who = f"{_AT_WORK} ({found}, {self.path.name})"
                    raise ClaimedError(f"--out {self._result}: {who}; wait for its end, or stop it")
                else:  # it may be about to end, as after the end of a launcher that has just killed it
                    time.sleep(_POLL_SECONDS)
                    os.utime(mine)
        finally:
            mine.unlink(missing_ok=True)

    def _life_of(self, found: Owner, mine: Path, watch: Watch) -> Literal["alive", "dead", "doubtful", "watched"]:
        """Say what is known of whoever has the claim; it is looked at again when that is not enough."""
        if self._is_former_self(found) or self._is_dead(found):
            return "dead"
        # by the date of our own file, touched a moment ago: so both dates are of the clock of the file system
        age = age_of(found, mine.stat().st_mtime)
        if age is None:
            # a clock that was set back, or a file system with another one: an age says nothing, a change while we
            # look does
            is_second_look = watch.has_been_seen("future")
            seconds = watch.look("future", found)
            if is_second_look and not seconds:
                return "alive"  # it has been refreshed
            return "dead" if seconds >= STALE_SECONDS else "watched"
        if age >= STALE_SECONDS:
            return "dead"
        is_second_look = watch.has_been_seen("past")
        watch.look("past", found)
        # one look is not enough: a job that was killed a moment ago has left a claim that is as young as that of a
        # live one
        return "alive" if age < DOUBTFUL_SECONDS and is_second_look else "doubtful"

    def _is_former_self(self, found: Owner) -> bool:
        """Say whether Slurm has started this very job again."""
        mine = self._facts
        return bool(mine["job"]) and found.job == mine["job"] and found.restart < mine["restart"]

    def _is_dead(self, found: Owner) -> bool:
        # numbers of processes are given again: a claim with our number that is not ours is of somebody before us
        if found.pid == os.getpid() and found.host == self._facts["host"]:
            return found.token not in _HELD
        return is_gone(found)

    def _is_old(self, found: Owner, mine: Path) -> bool:
        return (age_of(found, mine.stat().st_mtime) or 0.0) >= STALE_SECONDS

    def _take_over(self, dead: Owner, mine: Path) -> None:
        """Remove a dead claim unless it has gone; return without when another taker is at it."""
        # two who have seen the same dead claim: the slower one would remove the new claim of the faster one
        turn = self.path.with_name(f".{self.path.name}.turn")
        if not self._put(mine, turn):
            taker = read_owner(turn)
            # two may see this at once, and one remove the turn of the other: then both go on, and `_remove` puts back
            # what is no dead claim
            if taker is not None and (self._is_dead(taker) or self._is_old(taker, mine)):  # it was killed
                try:
                    turn.unlink(missing_ok=True)
                except OSError as error:
                    raise self._not_ours_to_remove(turn, taker) from error
            time.sleep(_TURN_SECONDS)
            os.utime(mine)
            return
        try:
            found = read_owner(self.path)
            # looked at once more in our turn, since it was judged before that
            if found is not None and found.token == dead.token:
                self._remove(found)
                self.has_taken_over = True
        finally:
            turn.unlink(missing_ok=True)

    def _remove(self, dead: Owner) -> None:
        """Remove a dead claim with what its owner was writing, and put back what turns out to be another one."""
        aside = hidden_name(self.path, "stale")
        try:
            # moved, not removed: between the look and this call it may have become another one, which can be put back
            # from there
            self.path.rename(aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._not_ours_to_remove(self.path, dead) from error
        found = read_owner(aside)
        if found is not None and found.token != dead.token:
            self._put(aside, self.path)
        with suppress(OSError):  # a folder with something in it is nothing of ours, and stays there
            aside.rmdir() if aside.is_dir() and not aside.is_symlink() else aside.unlink()

    def _not_ours_to_remove(self, path: Path, dead: Owner) -> UserError:
        """Return what to say of a dead claim that has to stay, as that of another user in a folder like /tmp."""
        return UserError(
            f"--out {self._result}: {path} is left of a job that has ended ({dead}), belongs to {_user(dead.user)} and "
            "cannot be removed by you; ask its owner to remove it, or give another --out"
        )

    def _put(self, source: Path, target: Path) -> bool:
        """Put a file to a name unless that is taken; say whether it is there now."""
        try:
            return put_once(source, target)
        except OSError as error:
            raise self._refused(error) from error

    def _write_own(self) -> Path:
        """Write the claim as it is now to a name of its own."""
        partial = hidden_name(self.path)
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

    def _beat(self) -> bool:
        """Refresh the claim; False when it is released, lost, or whoever took it is gone."""
        with self._writing, suppress(OSError, UserError):  # a disk that refuses now may not do so next time
            if self._is_released or not self._owner.is_alive():
                return False
            found = read_owner(self.path)
            if found is None or found.token != self.token:
                return False
            # a rename: whoever reads sees the beat before or this one, never half of one
            self._write_own().replace(self.path)
        return True


def _user(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except (KeyError, OverflowError):
        return f"user {number}"
