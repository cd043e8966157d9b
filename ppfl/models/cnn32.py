"""The small convolutional network of 32×32 colour images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from ppfl.core.errors import UserError
from ppfl.networks.convolution import convolution_stage, refuse_other_than_images
from ppfl.networks.model import Model, Stage, linear_stage, names_of

if TYPE_CHECKING:
    from ppfl.core.plugins import Example

_KERNEL = 5


class CNN32(Model):
    """Two times { 5×5 convolution, 2×2 max pooling, ReLU }, two hidden layers with ReLU, then the logits.

    Source: `CNNCifar` in public code after that of Collins et al., ICML 2021; with these widths 307,842 parameters on
    32×32×3 and 10 classes. Stages conv1, conv2, fc1, fc2, fc3. Splits: input layer `conv1.*`, output layer `fc3.*`.
    """

    name: Literal["cnn32"]
    example: ClassVar[Example] = {"channels": [3, 4], "hidden": [6, 5]}
    channels: tuple[PositiveInt, PositiveInt] = Field(default=(64, 64), strict=False)
    """Output channels of the two convolutions."""
    hidden: tuple[PositiveInt, PositiveInt] = Field(default=(120, 64), strict=False)
    """Widths of the two hidden layers."""

    def parameter_names(self) -> tuple[str, ...]:
        """conv1.weight, conv1.bias, …, fc3.weight, fc3.bias."""
        return names_of("conv1", "conv2", "fc1", "fc2", "fc3")

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the stages for images (channels, height, width). Raises UserError for other or too small samples."""
        refuse_other_than_images(self.name, input_shape)
        in_channels, *size = input_shape
        for _ in self.channels:
            size = [(pixels - _KERNEL + 1) // 2 for pixels in size]
        if min(size) < 1:
            raise UserError(
                f"problem.model: cnn32 takes images of at least 16×16 pixels, the samples have shape {input_shape}"
            )
        first, second = self.channels
        return (
            convolution_stage("conv1", (first, in_channels, _KERNEL, _KERNEL), 0, pooled=True),
            convolution_stage("conv2", (second, first, _KERNEL, _KERNEL), 0, pooled=True),
            linear_stage("fc1", second * size[0] * size[1], self.hidden[0], relu=True),
            linear_stage("fc2", *self.hidden, relu=True),
            linear_stage("fc3", self.hidden[1], num_classes, relu=False),
        )
