"""Floating-point operations that a round needs, counted from the model: 2 for a multiply-add of a layer's product.

A backward pass takes one product for the gradient of the weights, where they are trained, and one for the gradient of
the layer's input, which the first trained layer does not need. Bias, pooling, ReLU, softmax and steps are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Layer:
    """A convolution or a linear layer."""

    name: str
    flops: int
    """Of the forward pass of one sample."""


def cnn_layers(model: Mapping[str, object], side: int, num_classes: int, in_channels: int = 1) -> list[Layer]:
    """Return the layers of ppfl's model `cnn` with these settings."""
    channels, kernel, hidden = model["channels"], model["kernel_size"], model["hidden"]
    assert isinstance(channels, Sequence)
    assert isinstance(kernel, int)
    assert isinstance(hidden, int)
    layers = []
    for number, width in enumerate(channels, start=1):
        side = side - kernel + 1
        layers.append(Layer(f"conv{number}", 2 * side * side * width * in_channels * kernel * kernel))
        side, in_channels = side // 2, width
    flat = in_channels * side * side
    return [*layers, Layer("hidden", 2 * flat * hidden), Layer("head", 2 * hidden * num_classes)]


def mlp_layers(widths: Sequence[int]) -> list[Layer]:
    """Return the layers of ppfl's model `mlp`; widths from the input to the logits."""
    products = [2 * fan_in * width for fan_in, width in pairwise(widths)]
    names = [f"hidden{number + 1}" for number in range(len(products) - 1)]
    return [Layer(name, flops) for name, flops in zip([*names, "head"], products, strict=True)]


def forward(layers: Sequence[Layer]) -> int:
    """FLOPs of one sample through these layers."""
    return sum(layer.flops for layer in layers)


def backward(layers: Sequence[Layer], trained: Sequence[Layer]) -> int:
    """FLOPs of one sample back through these layers, as far as the first trained one."""
    first = next((k for k, layer in enumerate(layers) if layer in trained), len(layers))
    return sum(layer.flops for layer in trained) + forward(layers[first + 1 :])


def ffgg(layers: Sequence[Layer], local: Sequence[str], head_passes: float) -> float:
    """FLOPs of one sample in a round of FFGG: the body forward and backward once, the head for every step.

    head_passes: gradients of w over all samples.
    """
    body, head = _cut(layers, local)
    step = forward(head) + backward(head, head)
    return forward(layers) + backward(layers, body) + head_passes * step


def alternating(layers: Sequence[Layer], local: Sequence[str], local_epochs: int, shared_epochs: int) -> float:
    """FLOPs of one sample in a round of FedAlt or FedRep: the body once for all local epochs, since θ stands still."""
    body, head = _cut(layers, local)
    tuning = forward(body) + local_epochs * (forward(head) + backward(head, head)) if local_epochs else 0
    return tuning + shared_epochs * (forward(layers) + backward(layers, body))


def fedavg(layers: Sequence[Layer], epochs: int) -> float:
    """FLOPs of one sample in a round of FedAvg."""
    return epochs * (forward(layers) + backward(layers, layers))


def _cut(layers: Sequence[Layer], local: Sequence[str]) -> tuple[list[Layer], list[Layer]]:
    body = [layer for layer in layers if layer.name not in local]
    head = [layer for layer in layers if layer.name in local]
    assert list(layers) == [*body, *head], "the local part is the output side of the model"
    return body, head
