"""Euclidean projection on the simplex {a : a_j ≥ 0, Σ_j a_j = 1}."""

from __future__ import annotations

import torch


def on_simplex(points: torch.Tensor) -> torch.Tensor:
    """argmin_a ‖a − v‖² over the simplex, for every row v of (R, N) float64; entries may be −inf, not all of a row.

    a = (v − τ)₊ with the τ at which the entries that are left add up to 1, found by sorting; equal entries stay equal,
    whatever their places.
    Source: Held, Wolfe and Crowder, Mathematical Programming 1974.
    """
    falling = points.sort(dim=1, descending=True).values
    counts = torch.arange(1, points.shape[1] + 1, dtype=points.dtype)
    thresholds = (falling.cumsum(dim=1) - 1.0) / counts
    # the k largest are left, k the last place where this holds; it does at the first one, and never at −inf
    num_left = (falling > thresholds).sum(dim=1, keepdim=True)
    return (points - thresholds.gather(1, num_left - 1)).clamp_min(0.0)
