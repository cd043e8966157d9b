"""Partially personalized federated learning: shared parameters θ, local parameters w_m that never leave their rank."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppfl.api import aggregate, hurt, load, open_result, register, rounds, run

# MKL picks its kernel by the alignment of an array unless told otherwise, so the same sum could have other bits on
# another number of ranks. It reads this once, when torch loads, hence here.
os.environ.setdefault("MKL_CBWR", "AVX2")
# cuBLAS may sum up in another order when its calls share work space otherwise; read once, when CUDA begins
# (ppfl/runs/determinism.py)
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

__version__ = "0.1.0"
__all__ = ["aggregate", "hurt", "load", "open_result", "register", "rounds", "run"]


def __getattr__(name: str) -> Any:
    """Import the face for Python when it is first asked for: it loads torch."""
    if name in __all__:
        import ppfl.api

        return getattr(ppfl.api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
