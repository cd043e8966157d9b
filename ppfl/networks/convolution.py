"""Convolution stages: which of their forms is taken for some images, and the gradients of the dense ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppfl.core import devices
from ppfl.core.errors import UserError
from ppfl.core.transforms import is_transformed, is_vectorized
from ppfl.networks.blocked import Blocked, as_blocked, as_dense, convolve_and_pool
from ppfl.networks.convolution_forms import channels_last
from ppfl.networks.kernels import Shape
from ppfl.networks.model import Stage, weight_and_bias

if TYPE_CHECKING:
    from ppfl.core.types import Params
    from ppfl.networks.kernels import Kernels


@dataclass(frozen=True)
class ConvolutionStage(Stage):
    """Convolution, and where it is `pooled` 2×2 max pooling and ReLU; `apply` is the form that can be vectorized."""

    padding: int
    pooled: bool

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """(out, in, k, k)."""
        return self.parameters[f"{self.name}.weight"].shape

    def run(self, params: Params, x: torch.Tensor | Blocked, kernels: Kernels) -> torch.Tensor | Blocked:
        """Do the same in the form that the table has for this many images."""
        images = x.images if isinstance(x, Blocked) else x
        # other number types and processors have one form alone; bfloat16 is fast in the blocked layout, or not at all
        if not has_forms(images):
            return self.apply(params, as_dense(x))
        weight, bias = params[f"{self.name}.weight"], params[f"{self.name}.bias"]
        forms = kernels.forms(self._shape(images), can_be_blocked=self.pooled and fills_blocks(self.kernel_shape[0]))
        is_short = images.dtype == torch.bfloat16
        if self.pooled and (forms.is_blocked or (is_short and fills_blocks(self.kernel_shape[0]))):
            blocked = as_blocked(x)
            found = None if blocked is None else convolve_and_pool(blocked, weight, bias, self.padding)
            if found is not None:
                return found
        dense = as_dense(x)
        if is_short:
            return self.apply(params, dense)
        # imported here: its class is made of one of torch, which configurations are read without
        from ppfl.networks.dense_convolution import DenseConvolution

        y: torch.Tensor = DenseConvolution.apply(dense, weight, bias, self.padding, self.pooled, forms)  # type: ignore[no-untyped-call]
        return y

    def _shape(self, images: torch.Tensor) -> Shape:
        out_channels, in_channels, size, _ = self.kernel_shape
        height, width = (pixels + 2 * self.padding - size + 1 for pixels in images.shape[2:])
        return Shape(len(images), in_channels, out_channels, size, height * width)


def has_forms(images: torch.Tensor) -> bool:
    """Say whether there is a choice: on a CPU, where nobody vectorizes or differentiates a function."""
    return devices.is_host(images.device) and not is_transformed()


def convolution_stage(name: str, kernel_shape: tuple[int, int, int, int], padding: int, *, pooled: bool) -> Stage:
    """Return the stage of a convolution with kernels (out, in, k, k), with pooling and ReLU where they are wanted."""

    def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
        weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
        if is_vectorized():
            # imported here: its classes are made of one of torch, which configurations are read without
            from ppfl.networks.batched import convolution

            y = convolution(x, weight, bias, padding)
        elif not devices.is_host(x.device):
            # cuDNN brings images into the layout that it likes best, by fewer kernels than we would need
            y = torch.nn.functional.conv2d(x, weight, bias, padding=padding)
        else:
            y = torch.nn.functional.conv2d(channels_last(x), channels_last(weight), bias, padding=padding)
        return pool_and_relu(y) if pooled else y

    return ConvolutionStage(name, weight_and_bias(name, kernel_shape), apply, padding, pooled)


def refuse_other_than_images(model: str, input_shape: tuple[int, ...]) -> None:
    """Raise UserError unless samples are images (channels, height, width)."""
    if len(input_shape) != 3:
        raise UserError(
            f"problem.model: {model} takes images (channels, height, width), the samples have shape {input_shape}"
        )


def pool_and_relu(x: torch.Tensor) -> torch.Tensor:
    """2×2 max pooling, then ReLU: the two commute, and it is cheaper."""
    if is_vectorized():
        from ppfl.networks import batched

        return batched.pool_and_relu(x)
    return torch.nn.functional.relu(torch.nn.functional.max_pool2d(x, 2))


def fills_blocks(channels: int) -> bool:
    """Say whether oneDNN's blocked layout can be faster: it fills up to 8 or 16 channels (docs/performance.md)."""
    return channels <= 10 or channels % 16 == 0
