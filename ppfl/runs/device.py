"""Rank -> device, and how many threads a rank computes with."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch

from ppfl.core.agree import on_every_rank
from ppfl.core.errors import UserError
from ppfl.core.gpu_memory import keep_to_budget
from ppfl.runs.determinism import describe_determinism

if TYPE_CHECKING:
    from ppfl.core.communicator import Communicator

_MALLOPT = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 256 << 20), "M_MMAP_THRESHOLD": (-3, 32 << 20)}
"""Number and value (bytes) of glibc's settings, from its malloc.h."""


def choose_device(choice: Literal["auto", "cpu", "cuda"], communicator: Communicator) -> torch.device:
    """Return this rank's device: GPUs of a host are dealt to its ranks in turn; more ranks than GPUs share them.

    `auto` takes a GPU where there is one; `Config.device` has seen to problems of statistics before. On the CPU a rank
    computes with one thread: results have the same bits on any number of ranks, and processes are faster than threads;
    freed memory is kept. Raises UserError for `cuda` without a GPU.
    """
    num_gpus = torch.cuda.device_count()

    def check() -> None:
        if choice == "cuda" and num_gpus == 0:
            raise UserError(
                f"engine.device: cuda asked for, but rank {communicator.rank} sees no GPU; use cpu or auto, "
                "or ask for GPUs"
            )

    on_every_rank(communicator, check)
    if choice == "cpu" or num_gpus == 0:
        torch.set_num_threads(1)
        keep_freed_memory()
        return torch.device("cpu")
    device = torch.device("cuda", communicator.local_rank % num_gpus)
    torch.cuda.set_device(device)
    keep_to_budget(device)
    return device


def set_tf32(wanted: bool, device: torch.device, communicator: Communicator) -> None:
    """Have GPUs round what goes into products of float32 to 10 bits (TF32), or not: by default cuDNN does, cuBLAS not.

    Raises UserError where it is wanted of a CPU.
    """

    def check() -> None:
        if wanted and device.type != "cuda":
            raise UserError(
                f"precision: tf32 is a number type of GPUs, and rank {communicator.rank} computes on its CPU; "
                "use float32, or bfloat16"
            )

    on_every_rank(communicator, check)
    # both said, since their defaults differ
    torch.backends.cuda.matmul.allow_tf32 = wanted
    torch.backends.cudnn.allow_tf32 = wanted


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next use: activations would be given back and faulted in again.

    Up to a third of the time of batches beyond 64 images (docs/performance.md). Done once a process. Returns False
    where there is no glibc, or where the environment sets the allocator (MALLOC_*, glibc.malloc), which is left alone.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    # to set one of them also turns off that glibc adapts the others by itself, hence all three
    return all(mallopt(number, value) == 1 for number, value in _MALLOPT.values())


def describe_device(device: torch.device) -> str:
    """Return what a run computes on and by what its kernels are chosen, for provenance."""
    return f"{name_device(device)}, {describe_determinism()}" if device.type == "cuda" else name_device(device)


def name_device(device: torch.device) -> str:
    """Return the name of a GPU, or how the CPU is used."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} thread(s), MKL_CBWR={os.environ.get('MKL_CBWR', 'unset')}"
