"""How much memory of its host a job may use."""

from __future__ import annotations

import math
from pathlib import Path

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def free_host_bytes() -> float:
    """Return the memory that is free, at most what the job was granted (Slurm, containers); inf where nobody tells."""
    free = math.inf
    for line in _text(_PROC / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    return min([free, *_granted()])


def _granted() -> list[float]:
    """Return the limits of the control group of this process and of all groups above it, versions 1 and 2."""
    limits = []
    for line in _text(_PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            text = _text(folder / name).strip()
            if text.isdecimal():  # without a limit it says "max"
                limits.append(float(text))
            if folder == root:
                break
    return limits


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
