"""Where the host has to wait for a device, and how it does so as rarely as possible.

To look at a number of another device waits for all that was handed to it before. What is made for such devices looks at
none on its way, asks here whether that matters, and brings to the host what is needed there in one piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def is_host(device: torch.device) -> bool:
    """Say whether numbers on a device can be looked at without waiting for it.

    Called as `devices.is_host`, so that tests run and count on a CPU what others compute: there they say no.
    """
    return device.type == "cpu"


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the CPU, itself if it is there; waits."""
    return _copied(tensor)


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    # a function of its own, which tests replace to count: on a CPU nothing is copied that could be
    return tensor.to("cpu")


def start_to_host(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begin to copy a tensor to the CPU, contiguous, and return what waits for it; it is not to be changed before."""
    if tensor.device.type != "cuda":
        return lambda: to_host(tensor).contiguous()
    # pinned, without which a copy is none that others can go on beside
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(tensor.device))

    def wait() -> torch.Tensor:
        arrived.synchronize()
        return copy

    return wait


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on a device, itself if it is there, without waiting for what the device does.

    The tensor may be changed or forgotten at once when its memory is pageable, as that of all small ones is.
    """
    return tensor.to(device, non_blocking=True)
