"""What a number was measured on, and with: hardware, versions, resident memory, the speed of a matrix product."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

from ppfl.core.provenance import describe_process, now

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def describe(module: str = "benchmarks") -> dict[str, Any]:
    """Return date, commit, versions, hardware and the command."""
    from ppfl.networks.processor import this_processor

    facts, processor = describe_process(), this_processor()
    return {
        "date": now(),
        "commit": facts["commit"],
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "versions": {name.removeprefix("version_"): facts[name] for name in facts if name.startswith("version_")},
        "hardware": {
            "processor": _processor(),
            "instruction_set": processor.instruction_set,
            "l2_bytes": processor.l2_bytes,
            "l3_bytes": processor.l3_bytes,
            "cores": num_cores(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "load_at_start": os.getloadavg()[0],
            "platform": facts["platform"],
        },
    }


def reset_peak() -> None:
    """Let `peak_bytes` count from now on, where the kernel can."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_bytes() -> int:
    """Return the most memory that was resident at once since `reset_peak`; since the start without /proc."""
    return _resident("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Return the memory that is resident now; 0 without /proc."""
    return _resident("VmRSS")


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE) if _STATUS.exists() else None
    return int(found[1]) * 1024 if found else 0


def sgemm_gflops(size: int, seconds: float) -> float:
    """Return the speed of float32 products of square matrices, with the threads that torch has, kept up for a while."""
    import torch

    left, right = torch.rand(size, size), torch.rand(size, size)
    product = left @ right
    count, elapsed, started = 0, 0.0, time.perf_counter()
    while elapsed < seconds:
        torch.mm(left, right, out=product)
        count += 1
        elapsed = time.perf_counter() - started
    return count * 2 * size**3 / elapsed / 1e9


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else os.uname().machine
