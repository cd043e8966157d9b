"""Rank -> device, and how many threads a rank computes with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import torch

from ppfl.core.agree import on_every_rank
from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from ppfl.core.communicator import Communicator


def choose_device(choice: Literal["auto", "cpu", "cuda"], communicator: Communicator) -> torch.device:
    """Return this rank's device: GPUs of a host are dealt to its ranks in turn; more ranks than GPUs share them.

    `auto` takes a GPU where there is one. On the CPU a rank computes with one thread: results have the same bits on
    any number of ranks, and processes are faster than threads. Raises UserError for `cuda` without a GPU.
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
        return torch.device("cpu")
    device = torch.device("cuda", communicator.local_rank % num_gpus)
    torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> str:
    """Return the name of the processor or GPU, for provenance."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} thread(s), MKL_CBWR={os.environ.get('MKL_CBWR', 'unset')}"
