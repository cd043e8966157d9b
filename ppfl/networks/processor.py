"""What kernels depend on in a processor: its vector instructions and the sizes of its caches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Processor:
    """Vector instructions and caches; 0 bytes where there is no such cache or nobody knows."""

    instruction_set: str
    """AVX512, AVX2 or another name that torch has for what it may use here."""
    l2_bytes: int = 0
    """Of one core."""
    l3_bytes: int = 0
    """Of the cores that share it."""


def this_processor() -> Processor:
    """Return what this process may use: variables that forbid torch some instructions count."""
    sizes = _cache_bytes()
    return Processor(torch.backends.cpu.get_cpu_capability(), sizes.get(2, 0), sizes.get(3, 0))


def _cache_bytes() -> dict[int, int]:
    """Return the size of the unified cache of each level, as Linux tells it."""
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if kind == "Unified":
                found[int(level)] = int(size[:-1]) * _UNITS[size[-1]] if size[-1] in _UNITS else int(size)
        except (OSError, ValueError, IndexError):
            continue  # one that the system does not describe
    return found
