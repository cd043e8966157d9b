"""Multilayer perceptron."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from ppfl.networks.model import Model, linear_stage, names_of

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.networks.model import Stage


class MLP(Model):
    """x ← ReLU(W_k x + b_k) for each hidden layer, then logits = W x + b; stages hidden1, hidden2, …, head."""

    name: Literal["mlp"]
    example: ClassVar[Example] = {"hidden": [8]}
    hidden: tuple[PositiveInt, ...] = Field(default=(128,), strict=False, min_length=1)
    """Widths of the hidden layers, e.g. [128] or [256, 64]."""

    def _hidden_names(self) -> tuple[str, ...]:
        return tuple(f"hidden{number}" for number in range(1, len(self.hidden) + 1))

    def parameter_names(self) -> tuple[str, ...]:
        """hidden1.weight, hidden1.bias, …, head.weight, head.bias."""
        return names_of(*self._hidden_names(), "head")

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the hidden layers and the head; any shape suits, samples are flattened."""
        widths = (math.prod(input_shape), *self.hidden)
        hidden = (
            linear_stage(name, fan_in, width, relu=True)
            for name, (fan_in, width) in zip(self._hidden_names(), pairwise(widths), strict=True)
        )
        return (*hidden, linear_stage("head", widths[-1], num_classes, relu=False))
