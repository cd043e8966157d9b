"""Mixtures of adaptors of low rank: which weights have them, what their parameters are called, and who reads that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ppfl.core.plugins import Settings, refusal
from ppfl.interfaces.layers import layer_of_weight, layers_with_weights

ROUTER = "floral.router"
"""The logits r (adaptors,) of the mixture, one router for the whole model."""


@dataclass(frozen=True)
class Adaptor:
    """Names of the parameters of the C adaptors beside one weight W, in each of which an adaptor is a row."""

    weight: str
    bias: str | None
    """Of the layer, where it has one."""

    @property
    def output_factor(self) -> str:
        """U: (adaptors, out, r), of a kernel (adaptors, out, r, k)."""
        return f"{layer_of_weight(self.weight)}.floral_U"

    @property
    def input_factor(self) -> str:
        """V: (adaptors, r, in), of a kernel (adaptors, r, in, k)."""
        return f"{layer_of_weight(self.weight)}.floral_V"

    @property
    def added_bias(self) -> str:
        """The adaptors' own bias, (adaptors, out)."""
        return f"{layer_of_weight(self.weight)}.floral_bias"

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order in which they are stored."""
        factors = (self.output_factor, self.input_factor)
        return factors if self.bias is None else (*factors, self.added_bias)


@dataclass(frozen=True)
class Mixture:
    """The mixture of a model, for methods that train it."""

    num_adaptors: int
    """C."""
    temperature: float
    adaptors: tuple[Adaptor, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters in which an adaptor is a row."""
        return tuple(name for adaptor in self.adaptors for name in adaptor.names)


class MixtureOfAdaptors(Settings):
    """W + Σ_c max(π_c, 0.01) U_c V_c in the place of some weights W, biases likewise; π = softmax(r/temperature).

    Source: Almansoori, Horváth, Takáč, CPAL 2025 (FLoRAL), and its code. U_c V_c has rank `rank`, or for a `budget` ρ
    the rank max(1, ⌊ρ·in·out/(in + out)⌋); of a kernel, whose in and out are channels, it is a convolution k×1 and then
    one 1×k with so many channels between. π is one for the whole model.

    >>> from ppfl.interfaces.mixture import MixtureOfAdaptors
    >>> mixture = MixtureOfAdaptors.model_validate({"adaptors": 2, "layers": ["*"], "budget": 0.1})
    >>> mixture.rank_of(10, 64)
    1
    >>> mixture.names(("head.weight", "head.bias"))
    ('head.weight', 'head.floral_U', 'head.floral_V', 'head.floral_bias', 'floral.router', 'head.bias')
    """

    adaptors: NonNegativeInt
    """C; with 0 the model is what it is without."""
    layers: tuple[str, ...] = Field(strict=False, min_length=1)
    """Globs over names of layers, e.g. ["*"], or of their weights."""
    rank: PositiveInt | None = None
    """r; either this or `budget`."""
    budget: Annotated[float, Field(gt=0, le=1)] | None = None
    """ρ, about the share of a weight's size that an adaptor has; either this or `rank`."""
    temperature: PositiveFloat = 1.0
    """Of the softmax."""

    @model_validator(mode="after")
    def _rank_or_budget(self) -> Self:
        if (self.rank is None) == (self.budget is None):
            raise refusal("rank", "1, 2, …, or leave it out and give `budget`: exactly one of the two")
        return self

    def rank_of(self, out: int, width: int) -> int:
        """Return r for a weight (out, in)."""
        if self.rank is not None:
            return self.rank
        assert self.budget is not None
        return max(1, int(self.budget * width * out / (width + out)))

    def chosen(self, of_model: tuple[str, ...]) -> tuple[Adaptor, ...]:
        """Return the adaptors, given the names of the model's own parameters; none where C is 0.

        Raises ValueError when a pattern matches no weight.
        """
        weights = layers_with_weights(self.layers, of_model)
        found = (Adaptor(weight, _bias_of(weight, of_model)) for weight in weights)
        return tuple(found) if self.adaptors else ()

    def names(self, of_model: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of all parameters: adaptors behind their weights, and the router behind the first ones."""
        adaptors = {adaptor.weight: adaptor for adaptor in self.chosen(of_model)}
        names: list[str] = []
        for name in of_model:
            names.append(name)
            if name in adaptors:
                names += adaptors[name].names
                names += [] if ROUTER in names else [ROUTER]
        return tuple(names)


def _bias_of(weight: str, of_model: tuple[str, ...]) -> str | None:
    layer, dot, last = weight.rpartition(".")
    bias = f"{layer}{dot}{last.replace('weight', 'bias')}"
    return bias if bias in of_model else None
