"""Classification: one class a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ppfl.networks.class_task import ClassTask
from ppfl.networks.losses import CrossEntropy

if TYPE_CHECKING:
    from ppfl.interfaces.loss import Loss


class Classification(ClassTask):
    """Cross-entropy of logits (S, classes) and labels (S,) int64; scored by it, in nats, and by accuracy."""

    name: Literal["classification"]
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """ε: training sees (1 − ε) e_y + ε/classes in the place of the label; the losses of scores do not."""

    silent: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})

    def loss(self) -> Loss:
        """Cross-entropy with smoothed labels."""
        return CrossEntropy(self.label_smoothing)

    def scored_loss(self) -> Loss:
        """Cross-entropy with the labels as they are."""
        return CrossEntropy()
