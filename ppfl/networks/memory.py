"""What a client of a network needs on a device while it is computed together with others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ppfl.networks.convolution import ConvolutionStage

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from ppfl.core.types import Params
    from ppfl.networks.model import Stage, Takes

_COPIES_OF_PARAMETERS = 8
"""Where it began, where it is, a gradient, what it sends, and the float64 slices of the exact sum."""
_COPIES_OF_ACTIVATIONS = 3
"""As kept for the way back, as a gradient, and as laid out for a product."""


def bytes_of_client(
    stages: Sequence[Stage],
    input_shape: tuple[int, ...],
    dtype: torch.dtype,
    num_samples: int,
    *,
    takes: Takes = "numbers",
    frozen: Container[str] = (),
) -> int:
    """Return the bytes of one client's parameters, activations and windows (`ppfl.networks.batched`), for S samples.

    Frozen parameters are no client's. Activations are counted by sending one sample of zeros through the stages, since
    a stage can be any function.
    """
    shapes = shapes_of(stages)
    parameters = sum(math.prod(shape) for name, shape in shapes.items() if name not in frozen)
    x, numbers = sample_of_zeros(input_shape, takes=takes), math.prod(input_shape)
    for stage in stages:
        x = stage.apply(zeros_of(stage, shapes), x)
        numbers += x.numel()
        if isinstance(stage, ConvolutionStage):
            out_channels, *window = stage.kernel_shape
            pixels = x.numel() // out_channels * (4 if stage.pooled else 1)
            numbers += pixels * (math.prod(window) + out_channels)
    return dtype.itemsize * (_COPIES_OF_PARAMETERS * parameters + _COPIES_OF_ACTIVATIONS * numbers * num_samples)


def sample_of_zeros(input_shape: tuple[int, ...], *, takes: Takes) -> torch.Tensor:
    """Return one sample to see what stages make of it: numbers, or the token 0."""
    return torch.zeros(1, *input_shape, dtype=torch.int64 if takes == "tokens" else torch.float32)


def shapes_of(stages: Sequence[Stage]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters by name."""
    return {name: parameter.shape for stage in stages for name, parameter in stage.parameters.items()}


def zeros_of(stage: Stage, shapes: Mapping[str, tuple[int, ...]]) -> Params:
    """Return parameters for a stage, given the shapes of all."""
    return {name: torch.zeros(shapes[name]) for name in stage.reads}


def logits_shape(stages: Sequence[Stage], input_shape: tuple[int, ...], *, takes: Takes) -> tuple[int, ...]:
    """Return the shape of what the stages make of one sample."""
    x, shapes = sample_of_zeros(input_shape, takes=takes), shapes_of(stages)
    with torch.no_grad():
        for stage in stages:
            x = stage.apply(zeros_of(stage, shapes), x)
    return tuple(x.shape)
