"""The processes of a job, found in /proc: launchers give their ranks sessions of their own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents[int(entry.name)] = int(parent)
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def workers(pids: Iterable[int]) -> list[int]:
    """Return those that compute: ranks and children of packs, not what launched them."""
    names = {pid: _command(pid) for pid in pids}
    return [pid for pid, name in names.items() if "python" in name.split("\0")[0] and "resource_tracker" not in name]


def send(pids: Iterable[int], number: int) -> None:
    """Send a signal to those that are left."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_until_gone(pids: Iterable[int], seconds: float = 60.0) -> None:
    """Wait for the end of processes; kill what does not end."""
    deadline = time.monotonic() + seconds
    left = list(pids)
    while left := [pid for pid in left if _command(pid)]:
        if time.monotonic() > deadline:
            send(left, signal.SIGKILL)
            raise AssertionError(f"still there: {[_command(pid) for pid in left]}")
        time.sleep(0.02)


def kill(process: subprocess.Popen[str], how: str, draw: random.Random) -> bool:
    """Do to a job what `how` says; say whether that must end it."""
    everybody = tree(process.pid)
    if how == "kill -9 of one":
        send([draw.choice(workers(everybody) or everybody)], signal.SIGKILL)
        return False
    if how == "kill -9 of all":
        send(everybody, signal.SIGKILL)
        return True
    if how == "suspended":
        send(everybody, signal.SIGSTOP)
        time.sleep(draw.uniform(0.1, 1.0))
        is_killed = draw.random() < 0.5
        send(everybody, signal.SIGKILL if is_killed else signal.SIGCONT)
        return is_killed
    process.send_signal(signal.Signals[how])
    return True


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
