"""The Transformer of words, or of characters, by its settings."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator

from ppfl.core.errors import UserError
from ppfl.core.plugins import refusal
from ppfl.networks.dropout import Rate, dropout
from ppfl.networks.layers import causal_attention, layer_norm, linear
from ppfl.networks.model import Model, Parameter, Stage, Takes, norm_of

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Params
    from ppfl.interfaces.split import Split

_DEVIATION, _ADAPTER_DEVIATION = 0.02, 0.01
_EMBEDDING, _DECODER = "word_embedding.weight", "decoder.weight"


class Transformer(Model):
    """ReLU(√d E[x] + P), `layers` times { y = LN(x + attention(x)); x = LN(y + W2 ReLU(W1 y)) }, then logits E x.

    Source: Vaswani et al., NeurIPS 2017 (causal attention, norms behind the sums), with learned positions, tied weights
    and the widths of the code of Pillutla et al., ICML 2022: no biases in attention and output, no last norm; on 10,004
    words 5,721,088 parameters, 788,736 a layer. An adapter makes of what attention, or the feed-forward part, says, y,
    y + U ReLU(D y + b) + c before the sum (Houlsby et al., ICML 2019; the published code sends the other summand
    through the second one).

    Splits: input layer `*embedding*`, output layer `decoder.*`, a layer `layers.2.*`, adapters with the norms
    `*adapter*`, `*norm*` (71,808 parameters for 16, 268,800 for 64).
    """

    name: Literal["transformer"]
    example: ClassVar[Example] = {"width": 8, "layers": 2, "heads": 2, "feed_forward": 12, "adapters": 3}
    width: PositiveInt = 256
    """d, numbers a token."""
    layers: PositiveInt = 4
    """Layers."""
    heads: PositiveInt = 4
    """Heads of attention; they divide `width`."""
    feed_forward: PositiveInt = 1024
    """Width of the hidden layer within a layer."""
    positions: PositiveInt = 20
    """Tokens of the longest sequence."""
    adapters: NonNegativeInt = 0
    """Width of the adapters' bottleneck, e.g. 16 or 64; 0: there are none."""
    tied: Literal["auto"] | bool = "auto"
    """Whether the output layer is the embedding; `auto`: unless the split has one of the two local and not the other.
    An output layer of its own begins with the values of the embedding."""
    dropout: Rate = 0.0
    """Rate at which numbers are dropped while training, of the embedded tokens and before each sum."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Transformer:
        if self.width % self.heads:
            raise refusal("heads", f"a divisor of width, {self.width}")
        return self

    @property
    def takes(self) -> Takes:
        """Tokens."""
        return "tokens"

    @property
    def token_rows(self) -> tuple[str, ...]:
        """The embedding, and an output layer of its own."""
        return (_EMBEDDING, *(() if self.tied else (_DECODER,)))

    def for_split(self, split: Split) -> Transformer:
        """Untie the output layer where the split tells it from the embedding."""
        is_local = [any(fnmatchcase(name, glob) for glob in split.local) for name in (_EMBEDDING, _DECODER)]
        if self.tied == "auto" and is_local[0] != is_local[1]:
            return self.model_copy(update={"tied": False})
        return self

    def parameter_names(self) -> tuple[str, ...]:
        """word_embedding.weight, positional_embedding.weight, layers.0.self_attn.q_proj.weight, …, [decoder.weight]."""
        layers = (name for number in range(self.layers) for name in self._layer(f"layers.{number}"))
        return (_EMBEDDING, "positional_embedding.weight", *layers, *(() if self.tied else (_DECODER,)))

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the stages for sequences (T,) of tokens below num_classes. Raises UserError for other samples."""
        if len(input_shape) != 1 or input_shape[0] > self.positions:
            raise UserError(
                f"problem.model.positions: transformer takes sequences of up to {self.positions} tokens, the samples "
                f"have shape {input_shape}; allowed: at least their length"
            )
        layers = (self._layer_stage(f"layers.{number}") for number in range(self.layers))
        return (*self._embeddings(num_classes), *layers, self._decoder(num_classes))

    def _embeddings(self, words: int) -> tuple[Stage, Stage]:
        positional = "positional_embedding.weight"

        def embed(params: Params, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.embedding(x, params[_EMBEDDING]) * math.sqrt(self.width)

        def place(params: Params, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(x + params[positional][: x.shape[1]])
            return dropout(x, self.dropout, "dropout")

        law = Parameter((self.positions, self.width), deviation=_DEVIATION)
        return (
            Stage("word_embedding", {_EMBEDDING: Parameter((words, self.width), deviation=_DEVIATION)}, embed),
            Stage("positional_embedding", {positional: law}, place, is_random=self.dropout > 0),
        )

    def _decoder(self, words: int) -> Stage:
        read = _EMBEDDING if self.tied else _DECODER

        def decode(params: Params, x: torch.Tensor) -> torch.Tensor:
            return linear(x, params[read])

        if self.tied:
            return Stage("decoder", {}, decode, shares=(_EMBEDDING,))
        # the same function as the tied one, so that splits are compared from one point
        law = Parameter((words, self.width), deviation=_DEVIATION, drawn_as=_EMBEDDING)
        return Stage("decoder", {_DECODER: law}, decode)

    def _layer(self, layer: str) -> dict[str, Parameter]:
        """Return the laws of a layer's parameters, by full name."""
        d, h = self.width, self.feed_forward
        found = {f"self_attn.{kind}_proj.weight": _normal(d, d) for kind in ("q", "k", "v", "out")}
        found |= self._adapter("adapter1") | norm_of("norm1", d)
        found |= {"linear1.weight": _normal(h, d), "linear1.bias": Parameter((h,))}
        found |= {"linear2.weight": _normal(d, h), "linear2.bias": Parameter((d,))}
        found |= self._adapter("adapter2") | norm_of("norm2", d)
        return {f"{layer}.{name}": law for name, law in found.items()}

    def _adapter(self, name: str) -> dict[str, Parameter]:
        if not self.adapters:
            return {}
        d, r = self.width, self.adapters
        return {
            f"{name}.down.weight": _normal(r, d, _ADAPTER_DEVIATION),
            f"{name}.down.bias": Parameter((r,)),
            f"{name}.up.weight": _normal(d, r, _ADAPTER_DEVIATION),
            f"{name}.up.bias": Parameter((d,)),
        }

    def _layer_stage(self, layer: str) -> Stage:
        def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
            of = {name.removeprefix(f"{layer}."): params[name] for name in laws}
            query, key, value = (linear(x, of[f"self_attn.{kind}_proj.weight"]) for kind in ("q", "k", "v"))
            seen = linear(causal_attention(query, key, value, self.heads), of["self_attn.out_proj.weight"])
            x = self._join(of, x, seen, 1, layer)
            hidden = torch.relu(linear(x, of["linear1.weight"], of["linear1.bias"]))
            return self._join(of, x, linear(hidden, of["linear2.weight"], of["linear2.bias"]), 2, layer)

        laws = self._layer(layer)
        return Stage(layer, laws, apply, is_random=self.dropout > 0)

    def _join(self, of: Params, x: torch.Tensor, said: torch.Tensor, number: int, layer: str) -> torch.Tensor:
        """Return LN(x + adapter(what was said))."""
        said = dropout(said, self.dropout, f"{layer}.dropout{number}")
        if self.adapters:
            name = f"adapter{number}"
            narrow = torch.relu(linear(said, of[f"{name}.down.weight"], of[f"{name}.down.bias"]))
            said = said + linear(narrow, of[f"{name}.up.weight"], of[f"{name}.up.bias"])
        return layer_norm(x + said, of[f"norm{number}.weight"], of[f"norm{number}.bias"])


def _normal(rows: int, columns: int, deviation: float = _DEVIATION) -> Parameter:
    return Parameter((rows, columns), deviation=deviation)
