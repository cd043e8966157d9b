"""The recurrent network of characters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import PositiveInt

from ppfl.core.errors import UserError
from ppfl.networks.layers import linear, lstm_layer
from ppfl.networks.model import Model, Parameter, Stage, Takes, names_of, weight_and_bias

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Params

_KINDS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class LSTM(Model):
    """An embedding, `layers` LSTM layers over the sequence, then logits at each position.

    Source: McMahan et al., AISTATS 2017, Section 3 (Shakespeare: embedding 8, two layers of 256); cells of Hochreiter &
    Schmidhuber as in `torch.nn.LSTM`, with its two biases and its initial law. Stages embedding, lstm1, …, head, each
    of them with the names of that module. Splits: input layer `embedding.*`, output layer `head.*`, a layer `lstm2.*`.
    """

    name: Literal["lstm"]
    example: ClassVar[Example] = {"embedding": 3, "hidden": 5}
    embedding: PositiveInt = 8
    """Numbers a token."""
    hidden: PositiveInt = 256
    """Width of each layer."""
    layers: PositiveInt = 2
    """LSTM layers."""

    @property
    def takes(self) -> Takes:
        """Tokens."""
        return "tokens"

    @property
    def token_rows(self) -> tuple[str, ...]:
        """Those of embedding and head."""
        return ("embedding.weight", *names_of("head"))

    def _layer_names(self) -> list[str]:
        return [f"lstm{number}" for number in range(1, self.layers + 1)]

    def parameter_names(self) -> tuple[str, ...]:
        """embedding.weight, lstm1.weight_ih_l0, lstm1.weight_hh_l0, lstm1.bias_ih_l0, …, head.weight, head.bias."""
        layers = (f"{layer}.{kind}" for layer in self._layer_names() for kind in _KINDS)
        return ("embedding.weight", *layers, *names_of("head"))

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the stages for sequences (T,) of tokens below num_classes. Raises UserError for other samples."""
        if len(input_shape) != 1:
            raise UserError(f"problem.model: lstm takes sequences of tokens (T,), the samples have shape {input_shape}")
        widths = [self.embedding, *[self.hidden] * self.layers]
        layers = zip(self._layer_names(), widths[:-1], strict=True)
        embedding = Parameter((num_classes, self.embedding), deviation=1.0)
        return (
            Stage(
                "embedding",
                {"embedding.weight": embedding},
                lambda params, x: torch.nn.functional.embedding(x, params["embedding.weight"]),
            ),
            *(self._layer(layer, width) for layer, width in layers),
            Stage(
                "head",
                weight_and_bias("head", (num_classes, self.hidden)),
                lambda params, x: linear(x, params["head.weight"], params["head.bias"]),
            ),
        )

    def _layer(self, layer: str, width: int) -> Stage:
        names, rows = [f"{layer}.{kind}" for kind in _KINDS], 4 * self.hidden
        shapes: list[tuple[int, ...]] = [(rows, width), (rows, self.hidden), (rows,), (rows,)]
        laws = {name: Parameter(shape, 1.0 / math.sqrt(self.hidden)) for name, shape in zip(names, shapes, strict=True)}

        def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
            return lstm_layer(x, *(params[name] for name in names))[0]

        return Stage(layer, laws, apply)
