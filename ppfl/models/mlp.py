"""Multilayer perceptron."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from ppfl.networks.dropout import Rate, dropout_stage
from ppfl.networks.model import Model, linear_stage, names_of

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.networks.model import Stage


class MLP(Model):
    """x ← ReLU(W_k x + b_k) for each hidden layer, then logits = W x + b; stages hidden1, hidden2, …, head."""

    name: Literal["mlp"]
    example: ClassVar[Example] = {"hidden": [8]}
    silent: ClassVar[frozenset[str]] = frozenset({"dropout"})
    hidden: tuple[PositiveInt, ...] = Field(default=(128,), strict=False, min_length=1)
    """Widths of the hidden layers, e.g. [128] or [256, 64]."""
    dropout: Rate = 0.0
    """Part of what each hidden layer gives that is dropped in training."""

    def _hidden_names(self) -> tuple[str, ...]:
        return tuple(f"hidden{number}" for number in range(1, len(self.hidden) + 1))

    def parameter_names(self) -> tuple[str, ...]:
        """hidden1.weight, hidden1.bias, …, head.weight, head.bias."""
        return names_of(*self._hidden_names(), "head")

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the hidden layers and the head; any shape suits, samples are flattened."""
        widths = (math.prod(input_shape), *self.hidden)
        hidden: list[Stage] = []
        for name, (fan_in, width) in zip(self._hidden_names(), pairwise(widths), strict=True):
            hidden.append(linear_stage(name, fan_in, width, relu=True))
            if self.dropout:
                hidden.append(dropout_stage(f"dropout of {name}", self.dropout))
        return (*hidden, linear_stage("head", widths[-1], num_classes, relu=False))
