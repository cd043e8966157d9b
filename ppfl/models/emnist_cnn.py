"""The convolutional network of federated EMNIST."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt

from ppfl.core.errors import UserError
from ppfl.networks.convolution import convolution_stage, refuse_other_than_images
from ppfl.networks.dropout import dropout_stage
from ppfl.networks.model import Model, Stage, linear_stage, names_of

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class EmnistCNN(Model):
    """Convolution and ReLU, convolution, 2×2 max pooling and ReLU, a hidden layer with ReLU, then the logits.

    Source: Reddi et al., ICLR 2021, in the layers of FedML's `CNN_DropOut`: 3×3 kernels, 1,206,590 parameters on 28×28
    images of 62 classes. Stages conv1, conv2, fc1, fc2. Splits: input layer `conv1.*`, output layer `fc2.*`.
    """

    name: Literal["emnist_cnn"]
    example: ClassVar[Example] = {"channels": [3, 4], "hidden": 8}
    channels: tuple[PositiveInt, PositiveInt] = Field(default=(32, 64), strict=False)
    """Output channels of the two convolutions."""
    hidden: PositiveInt = 128
    """Width of the hidden layer."""
    dropout: bool = False
    """While training, a quarter of what the hidden layer reads is dropped, and half of what it says."""

    def parameter_names(self) -> tuple[str, ...]:
        """conv1.weight, conv1.bias, …, fc2.weight, fc2.bias."""
        return names_of("conv1", "conv2", "fc1", "fc2")

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Return the stages for images (channels, height, width). Raises UserError for other or too small samples."""
        refuse_other_than_images(self.name, input_shape)
        in_channels, height, width = input_shape
        if min(height, width) < 6:
            raise UserError(
                f"problem.model: emnist_cnn takes images of at least 6×6 pixels, the samples have shape {input_shape}"
            )
        first, second = self.channels
        flat = second * ((height - 4) // 2) * ((width - 4) // 2)
        return (
            convolution_stage("conv1", (first, in_channels, 3, 3), 0, pooled=False),
            Stage("relu1", {}, lambda _, x: torch.nn.functional.relu(x)),
            convolution_stage("conv2", (second, first, 3, 3), 0, pooled=True),
            *self._drop("dropout1", 0.25),
            linear_stage("fc1", flat, self.hidden, relu=True),
            *self._drop("dropout2", 0.5),
            linear_stage("fc2", self.hidden, num_classes, relu=False),
        )

    def _drop(self, name: str, rate: float) -> list[Stage]:
        return [dropout_stage(name, rate)] if self.dropout else []
