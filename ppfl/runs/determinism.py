"""Kernels of a GPU that give the same bits every time, or those that torch takes by itself.

What torch has for this is one value a process, and a process computes several runs: a pack, a notebook. Each run says
what it wants, and one that wants nothing finds what was there before ppfl.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.utils.deterministic

from ppfl.core.agree import on_every_rank
from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.core.communicator import Communicator

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable that cuBLAS reads when CUDA begins; ppfl/__init__.py sets it unless it is set."""
DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")
"""Its values with which cuBLAS gives the same bits; CUDA's manual of cuBLAS, "Results reproducibility"."""


@dataclass(frozen=True)
class _Flags:
    """What torch has, a value a process."""

    cudnn_deterministic: bool
    cudnn_benchmark: bool
    algorithms: bool
    warns_only: bool
    fills_uninitialized_memory: bool

    @classmethod
    def now(cls) -> _Flags:
        return cls(
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        )

    def set(self) -> None:
        torch.backends.cudnn.deterministic = self.cudnn_deterministic
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        torch.use_deterministic_algorithms(self.algorithms, warn_only=self.warns_only)
        torch.utils.deterministic.fill_uninitialized_memory = self.fills_uninitialized_memory  # type: ignore[attr-defined]


# a warning, and no error, for what torch has in one form only: that run is as good as without the setting. Memory is
# not filled, which takes time, since no kernel of ours reads what it has not written
_DETERMINISTIC = _Flags(
    cudnn_deterministic=True, cudnn_benchmark=False, algorithms=True, warns_only=True, fills_uninitialized_memory=False
)
_before: list[_Flags] = []
"""What torch had before the first run that wanted something else; empty when that is what it has."""


def set_determinism(
    wanted: bool, device: torch.device, communicator: Communicator, environment: Mapping[str, str] = os.environ
) -> None:
    """Have a GPU take deterministic kernels, or those that torch had before ppfl; on a CPU nothing is to be chosen.

    Raises UserError, on every rank, where cuBLAS was told otherwise by its environment variable.
    """

    def check() -> None:
        if wanted and device.type == "cuda" and environment.get(WORKSPACE) not in DETERMINISTIC_WORKSPACES:
            raise UserError(
                f"{WORKSPACE}={environment.get(WORKSPACE, '')} on rank {communicator.rank}: engine.deterministic needs "
                f"{' or '.join(DETERMINISTIC_WORKSPACES)}; unset it, or set engine.deterministic: false"
            )

    on_every_rank(communicator, check)
    if wanted and device.type == "cuda":
        if not _before:
            _before.append(_Flags.now())
        _DETERMINISTIC.set()
    elif _before:
        _before.pop().set()


def describe_determinism(environment: Mapping[str, str] = os.environ) -> str:
    """Return what kernels of a GPU are chosen by, for provenance."""
    chosen = "deterministic kernels" if _Flags.now() == _DETERMINISTIC else "kernels as torch chooses"
    return f"{chosen}, {WORKSPACE}={environment.get(WORKSPACE, 'unset')}"
