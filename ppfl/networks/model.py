"""Models as ordered stages of pure functions, so that any prefix can be shared and evaluated once."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from ppfl.core.plugins import PlugIn
from ppfl.networks.products import linear

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.core.types import Params


@dataclass(frozen=True)
class Parameter:
    """Shape and initial law of one parameter: uniform on [centre − half_width, centre + half_width]."""

    shape: tuple[int, ...]
    half_width: float = 0.0
    centre: float = 0.0


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

    def init(self, generator: Callable[[str], np.random.Generator]) -> Params:
        """Draw every parameter from its law, float64, with a generator of its own that is asked for by name."""
        drawn: Params = {}
        for name, parameter in self.parameters.items():
            low, high = parameter.centre - parameter.half_width, parameter.centre + parameter.half_width
            # float64 whatever the precision, so that runs in float32 begin where those in float64 do; by name, so
            # that one layer more does not change how the others begin
            drawn[name] = torch.from_numpy(generator(name).uniform(low, high, parameter.shape))
        return drawn


@dataclass(frozen=True)
class LinearStage(Stage):
    """x -> W x + b on flattened samples, with parameters W and b in this order: gradients have a closed form."""


class Model(PlugIn):
    """A classifier: samples (S, channels, height, width) or (S, features) to logits (S, num_classes).

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

    takes: ClassVar[Literal["numbers", "tokens"]] = "numbers"
    """What samples are: numbers as above, or tokens (S, T) int64; then `stages` is called with input_shape (T,) and the
    size of the vocabulary, and logits are (S, T, vocabulary) where there is a label at every position."""

    @abstractmethod
    def parameter_names(self) -> tuple[str, ...]:
        """Return the names of all parameters in order; they depend on the settings alone, not on the data."""

    @abstractmethod
    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the stages for samples of this shape. Raises UserError when the shape does not suit the model."""


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

    kind = Stage if relu else LinearStage
    return kind(name, weight_and_bias(name, (out_features, in_features)), apply)


def names_of(*stages: str) -> tuple[str, ...]:
    """Return the names of weight and bias of every stage."""
    return tuple(f"{stage}.{kind}" for stage in stages for kind in ("weight", "bias"))
