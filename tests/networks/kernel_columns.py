"""Columns of a table of kernels that leave no choice."""

from __future__ import annotations

from ppfl.networks.convolution_forms import FORMS
from ppfl.networks.kernels import Kernels, Measured, Shape
from ppfl.networks.processor import Processor

EVERY_FORM = ("blocked", *FORMS)


def taking(
    forward: str, weight_gradient: str = "", input_gradient: str = "", instruction_set: str = "AVX512"
) -> Kernels:
    """Return a column by which every stage takes these forms, the first one where another is not named."""
    if forward == "blocked":
        measured = [{"channels_last": 1.0}] * 3
    else:
        measured = [{form or forward: 1.0} for form in (forward, weight_gradient, input_gradient)]
    blocked = 0.0 if forward == "blocked" else 100.0
    return Kernels("of a test", Processor(instruction_set), (Measured(Shape(1, 1, 1, 1, 1), blocked, 0.0, *measured),))
