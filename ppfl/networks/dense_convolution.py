"""A convolution stage in the dense layout as one function of torch, its gradients each in a form of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from ppfl.networks.convolution_forms import FORMS, channels_last

if TYPE_CHECKING:
    from ppfl.networks.kernels import Forms

SLICE_ROWS = 32
"""Images that the dense forms go through together, so that what a stage makes of them stays in the cache. Fixed, since
gradients of weights are added up slice by slice."""


class DenseConvolution(torch.autograd.Function):
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
