"""Models as ordered stages of pure functions, so that any prefix can be shared and evaluated once."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch

from ppfl.core.plugins import PlugIn
from ppfl.networks.products import linear

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.core.types import Params
    from ppfl.interfaces.split import Split

Takes: TypeAlias = Literal["numbers", "tokens"]
"""What samples are: numbers of any shape, or sequences (T,) of int64 tokens."""


@dataclass(frozen=True)
class Parameter:
    """Shape and initial law of one parameter: uniform on [centre − half_width, centre + half_width], unless `deviation`
    makes it normal or `own` says it all; with neither of them it is the constant `centre`."""

    shape: tuple[int, ...]
    half_width: float = 0.0
    centre: float = 0.0
    deviation: float = 0.0
    """Standard deviation of the normal law around `centre`."""
    own: Callable[[np.random.Generator], torch.Tensor] | None = None
    """Another law: the values, drawn with a generator."""
    drawn_as: str | None = None
    """The parameter whose generator draws this one, too: of the same law, they begin with the same values."""
    is_of_own_tokens: bool = False
    """Whether rows are a client's own tokens: `shape` is that of the client with most of them, and others have its
    first rows."""

    def draw(self, random: np.random.Generator) -> torch.Tensor:
        """Return initial values, float64."""
        if self.own is not None:
            return self.own(random).double()
        if self.deviation:
            return torch.from_numpy(random.normal(self.centre, self.deviation, self.shape))
        low, high = self.centre - self.half_width, self.centre + self.half_width
        return torch.from_numpy(random.uniform(low, high, self.shape))


@dataclass(frozen=True)
class Stage:
    """One step x -> apply(params, x) of a model; pure, so that it can be vectorized over clients."""

    name: str
    parameters: dict[str, Parameter]
    """By full name, e.g. "conv1.weight", in the order in which they are stored."""
    apply: Callable[[Params, torch.Tensor], torch.Tensor]
    """(params, x (S, …)) -> (S, …); `params` may hold parameters of other stages too.

    Each sample by itself: a stage is run on pieces of the samples of a client, or on those of several clients together,
    so what it makes of one may not depend on the others (no statistics of a batch)."""
    is_random: bool = field(default=False, kw_only=True)
    """Whether it calls `ppfl.networks.dropout.dropout`; samples that are trained on have keys then."""
    shares: tuple[str, ...] = field(default=(), kw_only=True)
    """Names of parameters of other stages that it reads, too: tied weights."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the names of all parameters that it needs."""
        return (*self.parameters, *self.shares)

    def init(self, generator: Callable[[str], np.random.Generator]) -> Params:
        """Draw every parameter from its law, float64, with a generator of its own that is asked for by name."""
        # float64 whatever the precision, so that runs in float32 begin where those in float64 do; by name, so
        # that one layer more does not change how the others begin
        return {
            name: parameter.draw(generator(parameter.drawn_as or name)) for name, parameter in self.parameters.items()
        }


@dataclass(frozen=True)
class LinearStage(Stage):
    """x -> W x + b on flattened samples, with parameters W and b in this order: gradients have a closed form."""


class Model(PlugIn):
    """A classifier: samples (S, channels, height, width) or (S, features) to logits (S, num_classes).

    One that takes tokens makes of (S, T) int64 the logits (S, T, vocabulary), where there is a label at every position;
    its stages are asked for with input_shape (T,), and num_classes is the size of the vocabulary.

    Stages with the names of their parameters are all that the split and the shared pass need to know:

    >>> from typing import Literal
    >>> import numpy as np
    >>> import torch
    >>> from ppfl.networks.model import Model, Stage, linear_stage, names_of
    >>> class Squares(Model):
    ...     name: Literal["squares"]
    ...
    ...     def parameter_names(self):
    ...         return names_of("head")
    ...
    ...     def stages(self, input_shape, num_classes):
    ...         squares = Stage("squares", {}, lambda params, x: torch.cat([x, x * x], dim=1))
    ...         return squares, linear_stage("head", 2 * input_shape[0], num_classes, relu=False)
    >>> stages = Squares(name="squares").stages(input_shape=(3,), num_classes=2)
    >>> params = stages[1].init(lambda name: np.random.default_rng(0))
    >>> {name: tuple(value.shape) for name, value in params.items()}
    {'head.weight': (2, 6), 'head.bias': (2,)}
    >>> x = torch.ones(5, 3, dtype=torch.float64)
    >>> stages[1].apply(params, stages[0].apply(params, x)).shape
    torch.Size([5, 2])
    """

    @property
    def takes(self) -> Takes:
        """Say what its samples are."""
        return "numbers"

    @property
    def token_rows(self) -> tuple[str, ...]:
        """Names of parameters whose first dimension counts tokens, in the order of their ids."""
        return ()

    def for_split(self, split: Split) -> Model:
        """Return the model as this split needs it: one with tied weights may have to untie them."""
        return self

    @abstractmethod
    def parameter_names(self) -> tuple[str, ...] | None:
        """Return the names of all parameters in order; they depend on the settings alone, not on the data.

        None: they are not known before the stages are there, and globs are compared with the names only then.
        """

    @abstractmethod
    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the stages for samples of this shape. Raises UserError when the shape does not suit the model."""


@dataclass(frozen=True)
class HiddenStage(Stage):
    """x -> ReLU(W x + b) on flattened samples, with parameters W and b in this order."""


def weight_and_bias(stage: str, weight_shape: tuple[int, ...]) -> dict[str, Parameter]:
    """Weight (out, in, …) and bias (out,), both uniform on ±1/√fan_in: the default law of torch's layers."""
    half_width = 1.0 / math.sqrt(math.prod(weight_shape[1:]))
    return {
        f"{stage}.weight": Parameter(weight_shape, half_width),
        f"{stage}.bias": Parameter(weight_shape[:1], half_width),
    }


def linear_stage(name: str, in_features: int, out_features: int, *, relu: bool) -> Stage:
    """Return x -> W x + b on flattened samples, followed by ReLU where asked for."""

    def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
        # strides would choose another kernel, with other rounding
        x, weight = x.flatten(1).contiguous(), params[f"{name}.weight"].contiguous()
        y = linear(x, weight, params[f"{name}.bias"])
        return torch.nn.functional.relu(y) if relu else y

    kind = HiddenStage if relu else LinearStage
    return kind(name, weight_and_bias(name, (out_features, in_features)), apply)


def norm_of(name: str, width: int) -> dict[str, Parameter]:
    """Weight 1 and bias 0, both (width,): the initial law of torch's normalizations."""
    return {f"{name}.weight": Parameter((width,), centre=1.0), f"{name}.bias": Parameter((width,))}


def names_of(*stages: str) -> tuple[str, ...]:
    """Return the names of weight and bias of every stage."""
    return tuple(f"{stage}.{kind}" for stage in stages for kind in ("weight", "bias"))
