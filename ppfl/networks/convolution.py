"""Convolution stages: which of their forms is taken for some images, and the gradients of the dense ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from ppfl.core.transforms import is_transformed
from ppfl.networks.blocked import Blocked, as_blocked, as_dense, convolve_and_pool
from ppfl.networks.convolution_forms import FORMS, channels_last
from ppfl.networks.kernels import Shape
from ppfl.networks.model import Stage, weight_and_bias

if TYPE_CHECKING:
    from ppfl.core.types import Params
    from ppfl.networks.kernels import Forms, Kernels

SLICE_ROWS = 32
"""Images that the dense forms go through together, so that what a stage makes of them stays in the cache. Fixed, since
gradients of weights are added up slice by slice."""


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
        if images.device.type != "cpu" or is_transformed():
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
        y: torch.Tensor = _Dense.apply(dense, weight, bias, self.padding, self.pooled, forms)  # type: ignore[no-untyped-call]
        return y

    def _shape(self, images: torch.Tensor) -> Shape:
        out_channels, in_channels, size, _ = self.kernel_shape
        height, width = (pixels + 2 * self.padding - size + 1 for pixels in images.shape[2:])
        return Shape(len(images), in_channels, out_channels, size, height * width)


def convolution_stage(name: str, kernel_shape: tuple[int, int, int, int], padding: int, *, pooled: bool) -> Stage:
    """Return the stage of a convolution with kernels (out, in, k, k), with pooling and ReLU where they are wanted."""

    def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
        weight, bias = channels_last(params[f"{name}.weight"]), params[f"{name}.bias"]
        y = torch.nn.functional.conv2d(channels_last(x), weight, bias, padding=padding)
        return pool_and_relu(y) if pooled else y

    return ConvolutionStage(name, weight_and_bias(name, kernel_shape), apply, padding, pooled)


def pool_and_relu(x: torch.Tensor) -> torch.Tensor:
    """2×2 max pooling, then ReLU: the two commute, and it is cheaper."""
    return torch.nn.functional.relu(torch.nn.functional.max_pool2d(x, 2))


def fills_blocks(channels: int) -> bool:
    """Say whether oneDNN's blocked layout can be faster: it fills up to 8 or 16 channels (docs/performance.md)."""
    return channels <= 10 or channels % 16 == 0


class _Dense(torch.autograd.Function):
    """A convolution stage with channels last, slice by slice, forward and both gradients each in a form of its own."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int, pooled: bool, forms: Forms
    ) -> torch.Tensor:
        """See ConvolutionStage."""
        ctx.padding, ctx.forms = padding, forms
        form, kept, made = FORMS[forms.forward], [], []
        for images in torch.split(x, SLICE_ROWS):
            images = channels_last(images)
            y = form.forward(images, weight, bias, padding)
            kept.append(images)
            if pooled:
                largest, places = torch.ops.aten.max_pool2d_with_indices(y, [2, 2], [2, 2])
                positive = largest.relu_()
                kept += [y, places, positive]
                y = positive
            made.append(y)
        ctx.save_for_backward(weight, *kept)
        ctx.kept_of_slice = 4 if pooled else 1
        return _joined(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of what `forward` was given."""
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        weight, *kept = ctx.saved_tensors
        forms, padding, count = ctx.forms, ctx.padding, ctx.kept_of_slice
        of_x, of_weight, of_bias = [], None, None
        for number, of_slice in enumerate(torch.split(g, SLICE_ROWS)):
            images, *rest = kept[number * count : (number + 1) * count]
            of_y = _before_pooling(channels_last(of_slice), *rest) if rest else channels_last(of_slice)
            if wants_weight:
                part = FORMS[forms.weight_gradient].weight_gradient(images, of_y, weight.shape[2], padding)
                of_weight = part if of_weight is None else of_weight.add_(part)
            if wants_bias:
                part = of_y.sum(dim=(0, 2, 3))
                of_bias = part if of_bias is None else of_bias.add_(part)
            if wants_x:
                of_x.append(FORMS[forms.input_gradient].input_gradient(of_y, weight, padding))
        return _joined(of_x) if of_x else None, of_weight, of_bias, None, None, None


def _joined(slices: list[torch.Tensor]) -> torch.Tensor:
    if len(slices) == 1:
        return slices[0]
    return torch.cat([one.permute(0, 2, 3, 1) for one in slices]).permute(0, 3, 1, 2)  # channels stay last in memory


def _before_pooling(
    of_positive: torch.Tensor, y: torch.Tensor, places: torch.Tensor, positive: torch.Tensor
) -> torch.Tensor:
    of_largest = torch.ops.aten.threshold_backward(of_positive, positive, 0)
    found: torch.Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
        of_largest, y, [2, 2], [2, 2], [0, 0], [1, 1], False, places
    )
    return found
