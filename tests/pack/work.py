"""Work for the children of the scheduler's tests: what a payload says to do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ppfl.jobs.stopping import StopSignals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def make() -> Callable[[Sequence[tuple[str, str]]], Sequence[str | Exception]]:
    """Return work that counts its calls in this process."""
    calls: list[str] = []

    def one(payload: tuple[str, str]) -> str:
        what, where = payload
        calls.append(what)
        if what == "fail":
            raise ValueError("of no use")
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "die once" and not Path(where).exists():
            Path(where).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            sys.exit(3)
        if what == "environment":
            time.sleep(0.1)
            return os.environ.get(where, "unset")
        if what == "sleep":
            time.sleep(0.2)
        return f"{os.getpid()} {len(calls)}"

    return lambda payloads: [one(payload) for payload in payloads]


def is_starting(parent: int) -> Path:
    """Return the file that `make_slowly` leaves, called in a child of a process."""
    return Path(tempfile.gettempdir()) / f"ppfl-test-{parent}-is-starting"


def make_slowly() -> Callable[[Sequence[str]], Sequence[str]]:
    """Return work that lasts until it is told to stop, which it does not hear for a second."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    is_starting(parent.pid).touch()
    time.sleep(1)
    is_told = StopSignals()

    def work(payloads: Sequence[str]) -> Sequence[str]:
        deadline = time.monotonic() + 60
        while not is_told() and time.monotonic() < deadline:
            time.sleep(0.01)
        return ["told" if is_told() else "never told" for _ in payloads]

    return work


def make_parent() -> Callable[[Sequence[str]], Sequence[str]]:
    """Return work that tells whose child this process is, its threads, and how many signals are blocked."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return lambda payloads: [f"{os.getppid()} {os.environ['OMP_NUM_THREADS']} {len(blocked)}" for _ in payloads]
