"""What a rank computes with: the allocator's way with freed memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.errors import UserError
from ppfl.runs.device import set_tf32

PROBE = """
from pathlib import Path
import torch
from ppfl.comm.solo import SoloCommunicator
from ppfl.runs.device import choose_device, keep_freed_memory
choose_device("cpu", SoloCommunicator())
def resident(): return int(Path("/proc/self/statm").read_text().split()[1])
before = resident()
tensors = [torch.ones(1_000_000) for _ in range(50)]
used = resident() - before
del tensors
print(used, resident() - before, keep_freed_memory())
"""


def probe(**environment: str) -> tuple[int, int, bool]:
    """Return the pages that 50 tensors of 4 MB use, those that stay when they are gone, and whether settings took."""
    done = subprocess.run([sys.executable, "-c", PROBE], env=environment, text=True, capture_output=True, check=True)
    used, left, taken = done.stdout.split()
    return int(used), int(left), taken == "True"


def test_freed_memory_stays() -> None:
    used, left, taken = probe()
    assert taken
    assert used > 40_000
    assert left > 0.9 * used


def test_an_allocator_that_the_user_has_set_is_left_alone() -> None:
    _, left, taken = probe(MALLOC_MMAP_THRESHOLD_="1000000")
    assert not taken
    assert left < 10_000


@pytest.fixture
def flags() -> Iterator[None]:
    """Put back what torch has for all threads of the process."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("flags")
def test_products_of_gpus_are_in_tf32_only_where_asked_for() -> None:
    for wanted in (True, False, True):
        set_tf32(wanted, torch.device("cuda"), SoloCommunicator())
        assert torch.backends.cuda.matmul.allow_tf32 is wanted
        assert torch.backends.cudnn.allow_tf32 is wanted


def test_tf32_is_refused_on_cpu() -> None:
    with pytest.raises(UserError, match="rank 0 computes on its CPU; use float32"):
        set_tf32(True, torch.device("cpu"), SoloCommunicator())
