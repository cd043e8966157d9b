"""Where a number comes from: versions, commit, machine, job."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("ppfl", "torch", "numpy", "h5py", "mpi4py", "snakemake")
_SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_NODELIST", "SLURM_RESTART_COUNT")


def now() -> str:
    """Return the time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_process() -> dict[str, str]:
    """Return versions, commit of a source checkout ("unknown" elsewhere), host, command line and Slurm ids."""
    slurm = tuple((name.lower(), os.environ[name]) for name in _SLURM if name in os.environ)
    return dict(_described(" ".join(sys.argv), slurm))


@lru_cache(maxsize=1)
def _described(command: str, slurm: tuple[tuple[str, str], ...]) -> dict[str, str]:
    facts = {f"version_{name}": _version(name) for name in _PACKAGES}
    facts |= {"version_python": platform.python_version(), "host": platform.node(), "platform": platform.platform()}
    facts |= {"command": command, "commit": _commit(), **dict(slurm)}
    # bytes that are not UTF-8 come as surrogates, which HDF5 and JSON of other programs refuse
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in facts.items()}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@cache
def _commit() -> str:
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return described.stdout.strip() or "unknown"
