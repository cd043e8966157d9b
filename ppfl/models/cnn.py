"""The convolutional network with two convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ppfl.core.errors import UserError
from ppfl.core.plugins import refusal
from ppfl.networks.convolution import convolution_stage, pool_and_relu, refuse_other_than_images
from ppfl.networks.dropout import Rate, dropout_stage
from ppfl.networks.model import Model, Stage, linear_stage, names_of, norm_of
from ppfl.networks.normalization import group_norm

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Params


class CNN(Model):
    """Two times { convolution, [GroupNorm], 2×2 max pooling, ReLU }, a hidden layer with ReLU, then the logits.

    Source: McMahan et al., AISTATS 2017, Section 3 (there with padding 2; without padding it has 582,026 parameters
    on 28×28 grey images of 10 classes). Stages conv1, [norm1], conv2, [norm2], hidden, head. Pooling comes before
    ReLU: the two commute, and it is cheaper.
    """

    name: Literal["cnn"]
    example: ClassVar[Example] = {"channels": [4, 8], "padding": 2, "hidden": 16}
    silent: ClassVar[frozenset[str]] = frozenset({"dropout"})
    channels: tuple[PositiveInt, PositiveInt] = Field(default=(32, 64), strict=False)
    """Output channels of the two convolutions."""
    kernel_size: PositiveInt = 5
    """Height and width of the kernels in pixels."""
    padding: NonNegativeInt = 0
    """Zeros around the image in pixels, before each convolution."""
    hidden: PositiveInt = 512
    """Width of the hidden layer."""
    normalization: Literal["none", "group"] = "none"
    """`group`: GroupNorm (Wu & He, ECCV 2018) after each convolution, with parameters norm1.* and norm2.*."""
    groups: PositiveInt = 8
    """Groups of channels of GroupNorm."""
    dropout: Rate = 0.0
    """Part of what the hidden layer gives that is dropped in training."""

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> CNN:
        if self.normalization == "group" and any(channels % self.groups for channels in self.channels):
            raise refusal("groups", f"a divisor of both numbers of channels, {list(self.channels)}")
        return self

    def parameter_names(self) -> tuple[str, ...]:
        """conv1.weight, conv1.bias, …, head.weight, head.bias."""
        if self.normalization == "group":
            return names_of("conv1", "norm1", "conv2", "norm2", "hidden", "head")
        return names_of("conv1", "conv2", "hidden", "head")

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the stages for images (channels, height, width). Raises UserError for other or too small samples."""
        refuse_other_than_images(self.name, input_shape)
        num_channels, *size = input_shape
        stages: list[Stage] = []
        for number, width in enumerate(self.channels, start=1):
            size = [(pixels + 2 * self.padding - self.kernel_size + 1) // 2 for pixels in size]
            if min(size) < 1:
                raise UserError(
                    f"problem.model: the images {input_shape} (channels, height, width) are too small for two "
                    f"convolutions with kernel_size {self.kernel_size} and padding {self.padding}; "
                    f"choose a smaller kernel_size or more padding"
                )
            stages += self._convolution(number, num_channels, width)
            num_channels = width
        flat = num_channels * size[0] * size[1]
        return (
            *stages,
            linear_stage("hidden", flat, self.hidden, relu=True),
            *([dropout_stage("dropout of hidden", self.dropout)] if self.dropout else []),
            linear_stage("head", self.hidden, num_classes, relu=False),
        )

    def _convolution(self, number: int, in_channels: int, out_channels: int) -> list[Stage]:
        conv, norm = f"conv{number}", f"norm{number}"
        kernel_shape = (out_channels, in_channels, self.kernel_size, self.kernel_size)
        normalized = self.normalization == "group"
        convolution = convolution_stage(conv, kernel_shape, self.padding, pooled=not normalized)
        if not normalized:
            return [convolution]

        def normalize(params: Params, x: torch.Tensor) -> torch.Tensor:
            return pool_and_relu(group_norm(x, self.groups, params[f"{norm}.weight"], params[f"{norm}.bias"]))

        return [convolution, Stage(norm, norm_of(norm, out_channels), normalize)]
