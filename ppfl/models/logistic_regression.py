"""Multinomial logistic regression."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from ppfl.networks.model import Model, linear_stage, names_of

if TYPE_CHECKING:
    from ppfl.networks.model import Stage


class LogisticRegression(Model):
    """logits = W x + b on flattened samples; one stage, `head`."""

    name: Literal["logistic_regression"]

    def parameter_names(self) -> tuple[str, ...]:
        """head.weight (classes, features) and head.bias (classes,)."""
        return names_of("head")

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the one stage `head`; any shape suits."""
        return (linear_stage("head", math.prod(input_shape), num_classes, relu=False),)
