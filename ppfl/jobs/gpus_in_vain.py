"""GPUs that a job asked for and cannot use, told without loading torch: on a login node, and before a run begins."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_ASKED = ("SLURM_GPUS_PER_TASK", "SLURM_GPUS_PER_NODE", "SLURM_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_JOB_GPUS")
ON_CPU = "engine.device is cpu, or auto with a problem of statistics; cuda takes a GPU all the same"
_BACKENDS = re.compile(r"^(?:cuda|hip)\b[^=]*= *(['\"].+['\"])", re.MULTILINE)
_VERSION = re.compile(r"^__version__ *= *['\"](.+)['\"]", re.MULTILINE)


@cache
def torch_without_gpus() -> str:
    """Return the version of a torch that was built without CUDA and HIP; "" for another, or when none is found."""
    try:
        # read as a text, since loading torch takes seconds, on a login node perhaps minutes
        text = metadata.distribution("torch").locate_file("torch/version.py").read_text()
    except (metadata.PackageNotFoundError, OSError, UnicodeDecodeError):
        return ""
    version = _VERSION.search(text)
    return "" if version is None or _BACKENDS.search(text) else version[1]


def in_vain(device: str = "auto", environment: Mapping[str, str] = os.environ) -> str:
    """Return why a Slurm job that asked for GPUs computes on the CPU; "" when it did not ask, or can use them.

    `device` is what its run computes on, `Config.device`.
    """
    asked = next((f"{environment[name]}" for name in _ASKED if environment.get(name, "0") not in ("", "0")), "")
    if not asked or "SLURM_JOB_ID" not in environment:
        return ""
    if device == "cpu":
        return f"this job asked for GPUs ({asked}) and computes on the CPU: {ON_CPU}"
    version = torch_without_gpus()
    return f"this job asked for GPUs ({asked}) and computes on the CPU: {without(version)}" if version else ""


def without(version: str) -> str:
    """Say what is wrong with a torch of this version, and what to do about it."""
    return f"torch {version} was built without CUDA; install the CUDA build, or ask for no GPU"
