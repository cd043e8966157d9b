"""A light process beside each rank that outlives it, tells how it ended, and lets the launcher end the others.

A rank that is killed says nothing, and the others wait in a collective for ever. So under a launcher `ppfl run` forks
before it loads torch and MPI: the child is the rank, with the file descriptors and variables by which it finds the
launcher; the parent waits. When the child died it leaves rank, host, signal and round beside the result, and then ends
in the same way, which is what launchers watch for. Where a launcher does nothing (srun without --kill-on-bad-exit) or
takes its time, the parents of the other ranks see the note and end their own ranks.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ppfl.jobs.failures import TAIL_LINES, Failure, describe_exit, read_failure, write_failure, write_rank_log
from ppfl.jobs.stopping import fork_successor

_FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)
_WAITED_FOR = (signal.SIGCHLD, *_FORWARDED)
_POLL_SECONDS = 1.0
_GRACE_SECONDS = 1.0
"""For the launcher to end a rank whose fellow has died, before the supervisor does."""
_NUMBERS = struct.Struct("qq")
_NOT_YET = -1
_ENDING, _NOTED = 1, 2
_MAX_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1


class Report:
    """What a rank tells its supervisor, in memory that both have; also without one, to nobody."""

    def __init__(self) -> None:
        # anonymous and shared: it survives the rank that is killed, and needs no file, no pipe and no lock
        self._memory = mmap.mmap(-1, _MAX_BYTES)
        self._state = 0
        self.round = _NOT_YET
        self._write()
        # faulthandler writes to a descriptor from inside of a signal handler; nothing of Python works there any more
        self.faults = os.memfd_create("faults")

    def about(self, result: Path, digest: str, cell: str) -> None:
        """Say which run it is."""
        text = json.dumps({"result": str(result.absolute()), "digest": digest, "cell": cell}).encode()
        if len(text) < _MAX_BYTES - _NUMBERS.size:
            self._memory[_NUMBERS.size : _NUMBERS.size + len(text)] = text

    def told(self, round: int) -> None:
        """Say how many rounds are done; the first time that the result is this job's own."""
        self.round = round
        self._write()

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Say that the work is done and only the end is left, or that an exception has been told where it belongs."""
        self._state |= _ENDING if kind is None else _NOTED
        self._write()

    def _write(self) -> None:
        # 16 bytes that may be read while they are written: then a note is off by one round, at worst
        _NUMBERS.pack_into(self._memory, 0, self.round, self._state)

    def read(self) -> _Read:
        """Return what was told; called by the supervisor."""
        round, state = _NUMBERS.unpack_from(self._memory, 0)
        text = self._memory[_NUMBERS.size :].rstrip(b"\0")
        about: dict[str, Any] = json.loads(text) if text else {}
        return _Read(about, None if round == _NOT_YET else round, bool(state & _ENDING), bool(state & _NOTED))


@dataclass(frozen=True)
class _Read:
    about: dict[str, Any]
    round: int | None
    ending: bool
    noted: bool

    @property
    def result(self) -> Path | None:
        """The result, once it is this job's own."""
        return Path(self.about["result"]) if self.about and self.round is not None else None


def fork_rank(rank: int) -> Report:
    """Return in a new process, which is to be the rank; the one that called stays its supervisor and never returns."""
    report = Report()
    # what is in the buffers now would be written by both processes
    sys.stdout.flush()
    sys.stderr.flush()
    supervisor = os.getpid()
    # before the fork: a signal that comes in between must be waited for, and must not end the parent alone
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    child = fork_successor()
    if child:
        _Supervisor(child, rank, report).watch()
    # a rank must not outlive its supervisor: the launcher knows of that one alone, and would believe the job to be
    # over
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before the line above
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    faulthandler.enable(file=report.faults)
    return report


class _Supervisor:
    """The parent of a rank."""

    def __init__(self, child: int, rank: int, report: Report) -> None:
        self._child = child
        self._rank = rank
        self._report = report
        self._older: Failure | None = None
        self._knows_older = False

    def watch(self) -> NoReturn:
        """Wait for the child; end as it ended."""
        fellow_died_at: float | None = None
        while True:
            came = signal.sigtimedwait(_WAITED_FOR, _POLL_SECONDS)
            if came is not None and came.si_signo in _FORWARDED:
                # An interrupt from a terminal reaches the child by itself, and also that of a launcher which signals
                # the whole group: the child would count one Ctrl-C twice.
                number = signal.SIGUSR1 if came.si_signo == signal.SIGINT else came.si_signo
                os.kill(self._child, number)
            pid, status = os.waitpid(self._child, os.WNOHANG)
            if pid:
                self._end(os.waitstatus_to_exitcode(status), fellow_died=fellow_died_at is not None)
            if fellow_died_at is None and self._fellow_died():
                fellow_died_at = time.monotonic()
            if fellow_died_at is not None and time.monotonic() - fellow_died_at >= _GRACE_SECONDS:
                os.kill(self._child, signal.SIGKILL)

    def _fellow_died(self) -> bool:
        """Say whether there is a note that was not there when the run began."""
        told = self._report.read()
        if told.result is None or told.ending or told.noted:
            return False
        if not self._knows_older:
            # on a shared file system a note that rank 0 has removed may be seen for a while
            self._older, self._knows_older = read_failure(told.result), True
            return False
        found = read_failure(told.result)
        return found is not None and found != self._older

    def _end(self, code: int, *, fellow_died: bool) -> NoReturn:
        """Leave a note unless the rank has, and end as it did."""
        told = self._report.read()
        if fellow_died:
            os._exit(1)
        if not told.ending and not told.noted:
            if code != 0 or told.result is not None:
                self._note(code, told)
            code = code or int(told.result is not None)  # it left in the middle of a run: no success
        if code >= 0:
            os._exit(code)
        # to end by the same signal, not with a number that stands for it: launchers and shells tell the two apart
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child has left one, if any is wanted
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
        os.kill(os.getpid(), -code)
        os._exit(128 - code)

    def _note(self, code: int, told: _Read) -> None:
        os.lseek(self._report.faults, 0, os.SEEK_SET)
        faults = os.read(self._report.faults, _MAX_BYTES).decode(errors="replace").splitlines()
        trace = [line for line in faults if line and not line.startswith("Extension modules:")][:TAIL_LINES]
        failure = Failure(
            digest=told.about.get("digest", ""),
            cell=told.about.get("cell", ""),
            reason=describe_exit(code),
            rank=self._rank,
            round=told.round,
            log_tail=tuple(trace),
        )
        sys.stderr.write("\n".join([f"ppfl: rank {self._rank} on {failure.host}: {failure.reason}", *trace]) + "\n")
        sys.stderr.flush()
        if told.result is not None:
            write_rank_log(told.result, failure)
            write_failure(told.result, failure)
