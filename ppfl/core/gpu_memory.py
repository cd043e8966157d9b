"""How much memory of its GPU a process may take: what a pack allots to each of those that share a card."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ppfl.core.numbers import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_GIB = 1 << 30
BUDGET = "PPFL_GPU_BYTES"
"""Environment variable with the bytes of a GPU that tensors of this process may take; without it there is no limit."""


class OutOfGPUMemoryError(RuntimeError):
    """A run that needs more of its GPU than there is for it."""


def budget_bytes(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return what this process was allotted of its GPU, None for no limit."""
    return whole_number(environment.get(BUDGET, "")) or None


def keep_to_budget(device: torch.device, environment: Mapping[str, str] = os.environ) -> None:
    """Have torch raise OutOfMemoryError rather than take more of a GPU than was allotted."""
    budget = budget_bytes(environment)
    if budget is None:
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total), device)


def free_gpu_bytes(device: torch.device, environment: Mapping[str, str] = os.environ) -> float:
    """Return the memory of a GPU that is free, at most what was allotted: others that share it take the rest."""
    return min(float(torch.cuda.mem_get_info(device)[0]), budget_bytes(environment) or math.inf)


@contextmanager
def gpu_memory_explained(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Have a lack of GPU memory say what there was and what would need less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        budget = budget_bytes(environment)
        had = "" if budget is None else f" within the {budget / _GIB:.3g} GiB that its pack allots to each process"
        fewer = "" if budget is None else "fewer runs at once (--jobs), "
        raise OutOfGPUMemoryError(
            f"out of GPU memory{had}; {fewer}a smaller engine.clients_per_chunk or batch_size, or more GPUs with a "
            "rank on each, need less"
        ) from error
