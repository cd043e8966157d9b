"""Regression: one number or several a sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from ppfl.interfaces.task import Labels, Task, ratio
from ppfl.networks.losses import NumbersSquaredError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        varies = of_labels - ratio(sum(value * value for value in sums), number)
        explained = 1.0 - squares / varies if varies > _ROUNDING * of_labels else math.nan
        numbers = number * len(sums)
        return {
            "loss": ratio(squares / 2, number),
            "mean_squared_error": ratio(squares, numbers),
            "mean_absolute_error": ratio(absolute, numbers),
            "r2": explained,
        }
