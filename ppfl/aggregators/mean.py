"""The mean: the only rule that accepts weights and that needs no row."""

from __future__ import annotations

from typing import Literal

from ppfl.interfaces.aggregator import WeightedMean


class Mean(WeightedMean):
    """(1/N) Σ_m x_m, or Σ_m p_m x_m with the run's weights p.

    Source: McMahan et al., AISTATS 2017. With nothing before it the engine accumulates it without keeping any row,
    unless there is an attack, and NaN and inf are not forgiven; called on a matrix it gives every row the same weight.
    """

    name: Literal["mean"]
