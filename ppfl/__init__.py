"""Partially personalized federated learning: shared parameters θ, local parameters w_m that never leave their rank."""

from __future__ import annotations

import os

# MKL picks its kernel by the alignment of an array unless told otherwise, so the same sum could have other bits on
# another number of ranks. It reads this once, when torch loads, hence here.
os.environ.setdefault("MKL_CBWR", "AVX2")

__version__ = "0.1.0"
