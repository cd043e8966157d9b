"""ResNet-18 with GroupNorm, and adapters where they are wanted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt

from ppfl.core.errors import UserError
from ppfl.networks.convolution import refuse_other_than_images
from ppfl.networks.layers import conv2d, group_norm
from ppfl.networks.model import Model, Parameter, Stage, linear_stage, names_of, norm_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.plugins import Example
    from ppfl.core.types import Params

_BLOCKS = 2
"""Of each of the four layers."""
_ADAPTER_DEVIATION = 1e-4


class ResNet18(Model):
    """Eight blocks { 3×3 convolution, norm, ReLU, 3×3 convolution, norm, + x, ReLU }, 64 to 512 channels, then logits.

    Source: He et al., CVPR 2016, with GroupNorm, stem and adapters as in the code of Pillutla et al., ICML 2022. With
    the 3×3 stem, stride 1 and no pooling, 11,199,486 parameters on 28×28×1 and 62 classes; with the 7×7 stem, stride 2
    and 3×3 max pooling, 12,216,876 on 224×224×3 and 2,028 classes. Names are torchvision's, `bn` being a GroupNorm, so
    that weights trained there fit. An adapter makes of what a 3×3 convolution says, y, y + conv1×1(norm(y)) before the
    norm that follows (the published code adds y once more, which that norm all but takes out again).

    Splits: input layer `conv1.*`, `bn1.*`; output layer `fc.*`; a layer `layer3.*`; adapters, with the network's norms
    but those of the shortcuts, `*adapter*`, `*bn1.*`, `*bn2.*` (1,408,128 parameters).
    """

    name: Literal["resnet18"]
    example: ClassVar[Example] = {"width": 8, "adapters": True}
    stem: Literal["3x3", "7x7"] = "3x3"
    """Kernel of the first convolution: for small images, or for large ones."""
    adapters: bool = False
    """An adapter after each 3×3 convolution of the blocks."""
    width: PositiveInt = Field(default=64, multiple_of=8)
    """Channels of the first layer; each of the three others has twice those of the one before."""

    def parameter_names(self) -> tuple[str, ...]:
        """conv1.weight, bn1.weight, bn1.bias, layer1.0.conv1.weight, …, fc.weight, fc.bias."""
        blocks = (name for block in self._blocks() for name in block.parameters())
        return ("conv1.weight", *names_of("bn1"), *blocks, *names_of("fc"))

    def _blocks(self) -> Iterator[_Block]:
        in_channels = self.width
        for layer in range(4):
            channels = self.width << layer
            for number in range(_BLOCKS):
                stride = 2 if layer and not number else 1
                yield _Block(f"layer{layer + 1}.{number}", in_channels, channels, stride, self._groups(channels), self)
                in_channels = channels

    def _groups(self, channels: int) -> int:
        """8 channels a group in the first layer, 16 in the others."""
        return channels // 8 if channels == self.width else channels // 16

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the stages for images (channels, height, width). Raises UserError for other or too small samples."""
        refuse_other_than_images(self.name, input_shape)
        is_large = self.stem == "7x7"
        if min(input_shape[1:]) < (32 if is_large else 8):
            raise UserError(
                f"problem.model: the images {input_shape} (channels, height, width) are too small for resnet18, whose "
                f"{self.stem} stem takes at least {'32×32; choose stem: 3x3' if is_large else '8×8'} pixels"
            )
        size, stride, groups = (7, 2, self._groups(self.width)) if is_large else (3, 1, self._groups(self.width))
        kernel = (self.width, input_shape[0], size, size)

        def stem(params: Params, x: torch.Tensor) -> torch.Tensor:
            return conv2d(x, params["conv1.weight"], stride=stride, padding=size // 2)

        def norm(params: Params, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(group_norm(x, groups, params["bn1.weight"], params["bn1.bias"]))
            return torch.nn.functional.max_pool2d(x, 3, 2, 1) if is_large else x

        return (
            Stage("conv1", {"conv1.weight": _kernel(kernel)}, stem),
            Stage("bn1", norm_of("bn1", self.width), norm),
            *(Stage(block.name, block.parameters(), block) for block in self._blocks()),
            Stage("avgpool", {}, lambda _, x: x.mean(dim=(2, 3))),
            linear_stage("fc", self.width << 3, num_classes, relu=False),
        )


class _Block:
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), an adapter behind each convolution where they are wanted."""

    def __init__(
        self, name: str, in_channels: int, channels: int, stride: int, groups: int, settings: ResNet18
    ) -> None:
        self.name = name
        self._in_channels, self._channels, self._stride, self._groups = in_channels, channels, stride, groups
        self._has_adapters = settings.adapters

    def parameters(self) -> dict[str, Parameter]:
        """Return the laws of all parameters, by full name."""
        found: dict[str, Parameter] = {}
        for number, in_channels in ((1, self._in_channels), (2, self._channels)):
            found[f"conv{number}.weight"] = _kernel((self._channels, in_channels, 3, 3))
            if self._has_adapters:
                found |= norm_of(f"adapter{number}.norm", self._channels)
                law = Parameter((self._channels, self._channels, 1, 1), deviation=_ADAPTER_DEVIATION)
                found[f"adapter{number}.conv.weight"] = law
            found |= norm_of(f"bn{number}", self._channels)
        if self._in_channels != self._channels:
            found["downsample.0.weight"] = _kernel((self._channels, self._in_channels, 1, 1))
            found |= norm_of("downsample.1", self._channels)
        return {f"{self.name}.{name}": law for name, law in found.items()}

    def __call__(self, params: Params, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self._convolve(params, x, 1, self._stride))
        y = self._convolve(params, y, 2, 1)
        if self._in_channels != self._channels:
            x = conv2d(x, params[f"{self.name}.downsample.0.weight"], stride=self._stride)
            x = self._norm(params, x, "downsample.1")
        return torch.relu(y + x)

    def _convolve(self, params: Params, x: torch.Tensor, number: int, stride: int) -> torch.Tensor:
        y = conv2d(x, params[f"{self.name}.conv{number}.weight"], stride=stride, padding=1)
        if self._has_adapters:
            adapter = f"adapter{number}"
            y = y + conv2d(self._norm(params, y, f"{adapter}.norm"), params[f"{self.name}.{adapter}.conv.weight"])
        return self._norm(params, y, f"bn{number}")

    def _norm(self, params: Params, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = (params[f"{self.name}.{name}.{kind}"] for kind in ("weight", "bias"))
        return group_norm(x, self._groups, weight, bias)


def _kernel(shape: tuple[int, int, int, int]) -> Parameter:
    """Normal with variance 2/(out · k²): He et al., ICCV 2015, by what goes out."""
    return Parameter(shape, deviation=math.sqrt(2.0 / (shape[0] * shape[2] * shape[3])))
