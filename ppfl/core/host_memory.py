"""How much memory of its host a job may use, and how much it does."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_BYTES = 1 << 16
"""Of a text of the kernel's; what it tells of a host's memory and of a process's groups takes 2 kB."""
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


_SHARERS: ContextVar[int] = ContextVar("processes that take memory alike", default=1)


@contextmanager
def shared_by(num_processes: int) -> Iterator[None]:
    """Have `free_host_bytes` tell within the block what is free for one of so many processes that take it alike."""
    token = _SHARERS.set(num_processes)
    try:
        yield
    finally:
        _SHARERS.reset(token)


def free_host_bytes() -> float:
    """Return the memory that is free, at most what the job was granted (Slurm, containers); inf where nobody tells."""
    free = math.inf
    for line in _text(f"{_PROC}/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    return min([free, *_granted()]) / _SHARERS.get()


def resident_bytes() -> float:
    """Return the memory that this process has now; 0 where nobody tells."""
    _, resident, *_ = (_text(f"{_PROC}/self/statm") or "0 0").split()
    return float(resident) * os.sysconf("SC_PAGESIZE")


def _granted() -> list[float]:
    """Return the limits of the control group of this process and of all groups above it, versions 1 and 2."""
    limits = []
    for line in _text(f"{_PROC}/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = str(_CGROUPS), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = f"{_CGROUPS}/memory", "memory.limit_in_bytes"
        else:
            continue
        groups = path.strip("/").split("/")
        for depth in range(len(groups), -1, -1):
            text = _text("/".join([root, *groups[:depth], name])).strip()
            if text.isdecimal():  # without a limit it says "max"
                limits.append(float(text))
    return limits


def _text(path: str) -> str:
    # every run of a pack asks, and objects for paths and for text would take longer than the kernel does
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(file, _MAX_BYTES).decode()
    except OSError:
        return ""
    finally:
        os.close(file)
