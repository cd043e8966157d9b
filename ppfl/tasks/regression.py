"""Regression: one number or several a sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from ppfl.interfaces.task import Labels, Task, ratio
from ppfl.networks.losses import NumbersSquaredError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ppfl.interfaces.loss import Loss

_ROUNDING = 1e-12
"""Of the sum of squares of labels: what varies less is constant but for rounding."""


class Regression(Task):
    """½‖z − y‖² of logits (S, numbers) and labels (S, numbers), or (S,), floating point.

    Scores: this loss; mean squared and mean absolute error, over samples and numbers; and R², the share of the variance
    of a client's labels around their mean that the model explains, NaN where they do not vary.
    """

    name: Literal["regression"]
    memorized_gap: ClassVar[float] = math.inf
    """None: what is large depends on the unit of the labels."""

    def loss(self) -> Loss:
        """½‖z − y‖²."""
        return NumbersSquaredError()

    def num_outputs(self, labels: Labels) -> int:
        """The numbers of a label."""
        if not labels.is_floating or len(labels.shape) > 1:
            return self.refuse(labels, "floating-point labels, one or a vector a sample")
        return labels.shape[0] if labels.shape else 1

    def counts(self, labels: np.ndarray) -> np.ndarray:
        """Samples, and those that R² counts: all or, where their labels do not vary, none."""
        # in float32 the difference of two sums of squares is rounding where labels are large beside their spread
        y = labels.reshape(len(labels), math.prod(labels.shape[1:])).astype(np.float64)
        varies = len(y) and _varies((y * y).sum(), len(y), y.sum(axis=0)) > 0
        return np.array([len(y), len(y) if varies else 0], dtype=np.int64)

    def weighs(self, metric: str) -> int:
        """Samples; R² its own."""
        return int(metric == "r2")

    def totals(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Squared and absolute errors, samples, squares of labels, and the sum of each of their numbers."""
        y = labels.reshape(logits.shape).double()
        error = logits.double() - y
        number = torch.full_like(error[:1, :1].sum(), len(labels))
        return torch.cat([
            torch.stack([error.square().sum(), error.abs().sum(), number, y.square().sum()]), y.sum(dim=0)
        ])  # fmt: skip

    def scores(self, totals: Sequence[float]) -> dict[str, float]:
        """Return loss, errors and R²."""
        squares, absolute, number, of_labels, *sums = totals
        varies = _varies(of_labels, number, sums)
        numbers = number * len(sums)
        return {
            "loss": ratio(squares / 2, number),
            "mean_squared_error": ratio(squares, numbers),
            "mean_absolute_error": ratio(absolute, numbers),
            "r2": 1.0 - squares / varies if varies else math.nan,
        }


def _varies(squares: float, number: float, sums: Iterable[float]) -> float:
    """Return Σ‖y − ȳ‖² of labels, given Σ‖y‖², their number and the sums of each of their numbers; 0 below rounding."""
    found = squares - ratio(sum(float(value) ** 2 for value in sums), number)
    return found if found > _ROUNDING * squares else 0.0
