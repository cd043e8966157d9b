"""Two classes told apart by one number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from ppfl.interfaces.task import Labels, Task, ratio
from ppfl.networks.losses import Logistic

if TYPE_CHECKING:
    from collections.abc import Sequence


class Binary(Task):
    """log(1 + exp(−(2y − 1)z)) of one logit a sample, (S, 1), and labels (S,) int64, 0 or 1; scored by it, in nats, and
    by accuracy, the share of z that have the sign of 2y − 1.

    With the model `logistic_regression` that is logistic regression as textbooks have it, features + 1 numbers instead
    of twice as many. What counts classes by logits, label histograms and attacks that flip labels, is for the task
    `classification`.
    """

    name: Literal["binary"]

    def loss(self) -> Logistic:
        """The logistic loss."""
        return Logistic()

    def num_outputs(self, labels: Labels) -> int:
        """1."""
        if labels.is_floating or labels.shape or labels.largest > 1:
            return self.refuse(labels, "one integer a sample, 0 or 1")
        return 1

    def totals(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss, correct guesses and samples."""
        # 0 has no sign: neither guess is right
        is_right = torch.where(labels > 0, logits[:, 0] > 0, logits[:, 0] < 0)
        correct = torch.where(logits.isfinite().all(), is_right.sum(), math.nan)
        loss = self.loss().total(logits, labels)
        return torch.stack([loss.double(), correct.double(), torch.full_like(loss, len(labels)).double()])

    def scores(self, totals: Sequence[float]) -> dict[str, float]:
        """Mean loss and accuracy; NaN accuracy where a logit is NaN or inf."""
        loss, correct, number = totals
        return {"loss": ratio(loss, number), "accuracy": ratio(correct, number)}
