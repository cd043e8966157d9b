"""Signals that announce an end become a wish to stop: batch systems send SIGUSR1 and SIGTERM before they end a job, a
lost terminal sends SIGHUP, and Ctrl-C SIGINT."""

from __future__ import annotations

import os
import signal
from contextvars import ContextVar
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
STOPPED = 75
"""Exit code of what was stopped before its end with everything saved: start it again to continue."""
STOPPED_ON_REQUEST = 76
"""The same after `ppfl stop`: no script is to start it again by itself."""
ON_REQUEST = "stopped on request"
"""Status of a run that was asked to stop and is not to go on by itself."""
INTERRUPTED = 130
"""Exit code of what a Ctrl-C ended at once, as shells say it."""


class StopSignals:
    """Calling it says whether one of the signals has come since it was made; more of them change nothing, but a second
    Ctrl-C, which interrupts.

    Make it in the main thread, and early: until then the signals end the process. A SIGHUP that is ignored then stays
    ignored: that is what nohup is for.
    """

    def __init__(self, *, can_be_interrupted: bool = True) -> None:
        self._came = False
        self._interrupts = 0 if can_be_interrupted else -1
        # whoever started us with nohup has said what a lost terminal is to do: nothing
        self._numbers = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        for number in self._numbers:
            signal.signal(number, self._note)

    def __call__(self) -> bool:
        """Say whether a signal has come."""
        return self._came

    def ignore(self) -> None:
        """Let signals change nothing any more, up to the very end of the process: all is decided and saved.

        Python by itself gives up its handlers before it has ended, and a late signal would be the exit code.
        """
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # nothing else: a handler runs between two instructions of whatever is at work, perhaps inside of a write
        self._came = True
        if number == signal.SIGINT and self._interrupts >= 0:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt


_IS_SUCCESSOR = ContextVar("_IS_SUCCESSOR", default=False)


def fork_successor() -> int:
    """Fork as `os.fork` does; the child goes on with what this process was about, and takes signals as it does."""
    before = _IS_SUCCESSOR.set(True)
    try:
        return os.fork()
    finally:
        _IS_SUCCESSOR.reset(before)


def _leave_to_the_parent() -> None:
    """Have signals end a process that was forked, as they do others: a pool of workers ends its own by SIGTERM, and
    would wait for ever for one that takes it for a wish."""
    if _IS_SUCCESSOR.get():
        return
    for number in SIGNALS:
        if isinstance(getattr(signal.getsignal(number), "__self__", None), StopSignals):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


os.register_at_fork(after_in_child=_leave_to_the_parent)
