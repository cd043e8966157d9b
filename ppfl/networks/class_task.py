"""What tasks with class labels have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch

from ppfl.interfaces.task import Labels, Task, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence


class ClassTask(Task):
    """One class a sample: scored by the mean of `scored_loss`, and by accuracy in [0, 1].

    Such a task says its loss:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.networks.class_task import ClassTask
    >>> from ppfl.networks.losses import SquaredError
    >>> class OneHot(ClassTask):
    ...     name: Literal["one_hot"]
    ...
    ...     def loss(self):
    ...         return SquaredError()
    >>> task = OneHot(name="one_hot")
    >>> task.scores(task.totals(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])).tolist())
    {'loss': 0.5, 'accuracy': 0.5}
    """

    has_classes: ClassVar[bool] = True

    def num_outputs(self, labels: Labels) -> int:
        """One more than the largest label."""
        if labels.is_floating or labels.shape:
            return self.refuse(labels, "one integer a sample, its class")
        return labels.largest + 1

    def totals(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss, correct guesses and samples."""
        # argmax takes NaN for the largest, and would call a diverged model a guess
        correct = torch.where(logits.isfinite().all(), (logits.argmax(dim=1) == labels).sum(), math.nan)
        loss = self.scored_loss().total(logits, labels)
        return torch.stack([loss.double(), correct.double(), torch.full_like(loss, len(labels)).double()])

    def scores(self, totals: Sequence[float]) -> dict[str, float]:
        """Mean loss and accuracy; NaN accuracy where a logit is NaN or inf: among those none is the largest."""
        loss, correct, number = totals
        return {"loss": ratio(loss, number), "accuracy": ratio(correct, number)}
