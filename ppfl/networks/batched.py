"""Layers of K clients by one kernel each, for clients with parameters of their own: the rules of `vmap` for stages.

torch's own rules make of the convolutions of many clients a grouped one, which is slow, and of a linear layer a dozen
operations. These functions have rules of ours: one batched product, with one more dimension in front. They take any
number of dimensions in front, and their derivatives are made of themselves, so that they can be differentiated again.

A convolution is a product with windows: a row for each pixel of what comes out, with what the kernel sees of the image,
(k, k, channels), channels last, so that k times channels numbers lie side by side in the image, too. Strides are 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd.function import Function

if TYPE_CHECKING:
    from collections.abc import Sequence

    Dims = Sequence[int | None]
    Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
    Wanted = tuple[bool, bool, bool]


def product(a: torch.Tensor, b: torch.Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> torch.Tensor:
    """A B of two matrices, or of the transposed ones."""
    return cast("torch.Tensor", _Product.apply(a, b, transpose_a, transpose_b))  # type: ignore[no-untyped-call]


def affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """X Wᵀ + b, X (S, in), W (out, in)."""
    return cast("torch.Tensor", _Affine.apply(x, weight, bias))  # type: ignore[no-untyped-call]


def convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int) -> torch.Tensor:
    """y_o = Σ_i weight_oi ⋆ x_i + bias_o, x (S, in, height, width), weight (out, in, k, k)."""
    return cast("torch.Tensor", _Convolution.apply(x, weight, bias, padding)[0])  # type: ignore[no-untyped-call]


def pool_and_relu(x: torch.Tensor) -> torch.Tensor:
    """2×2 max pooling, then ReLU, of images (S, channels, height, width)."""
    return cast("torch.Tensor", _PoolAndRelu.apply(x)[0])  # type: ignore[no-untyped-call]


class _Product(Function):
    @staticmethod
    def forward(a: torch.Tensor, b: torch.Tensor, transpose_a: bool, transpose_b: bool) -> torch.Tensor:
        return _matmul(a.mT if transpose_a else a, b.mT if transpose_b else b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, bool, bool], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.transposed = inputs[2:]

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        (a, b), (transpose_a, transpose_b) = ctx.saved_tensors, ctx.transposed
        of_a = of_b = None
        if ctx.needs_input_grad[0] and transpose_a:
            of_a = product(b, g, transpose_a=transpose_b, transpose_b=True)
        elif ctx.needs_input_grad[0]:
            of_a = product(g, b, transpose_b=not transpose_b)
        if ctx.needs_input_grad[1] and transpose_b:
            of_b = product(g, a, transpose_a=True, transpose_b=transpose_a)
        elif ctx.needs_input_grad[1]:
            of_b = product(a, g, transpose_a=not transpose_a)
        return of_a, of_b, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Dims, a: torch.Tensor, b: torch.Tensor, transpose_a: bool, transpose_b: bool
    ) -> tuple[torch.Tensor, int]:
        return _Product.apply(*_of_all(info, in_dims, a, b), transpose_a, transpose_b), 0  # type: ignore[no-untyped-call]


class _Affine(Function):
    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return _affine(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        of_x = product(g, weight) if ctx.needs_input_grad[0] else None
        of_weight = product(g, x, transpose_a=True) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, g.sum(dim=-2) if ctx.needs_input_grad[2] else None

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
        return _Affine.apply(*_of_all(info, in_dims, *inputs)), 0  # type: ignore[no-untyped-call]


class _Convolution(Function):
    """What comes out, and the windows of x, which the way back needs again."""

    @staticmethod
    def forward(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = weight.shape[-1]
        out = [pixels + 2 * padding - size + 1 for pixels in x.shape[-2:]]
        windows = _windows(x, size, padding)
        rows = _affine(windows, _of_windows(weight), bias)
        return rows.reshape(*x.shape[:-3], *out, -1).movedim(-1, -3), windows

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        x, weight, _, ctx.padding = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, output[1], weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor | None, _: None) -> tuple[torch.Tensor | None, ...]:
        if g is None:
            return None, None, None, None
        found = _Gradients.apply(g, *ctx.saved_tensors, ctx.padding, ctx.needs_input_grad[:3])  # type: ignore[no-untyped-call]
        return (*found, None)

    @staticmethod
    def vmap(
        info: Any, in_dims: Dims, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int]]:
        return _Convolution.apply(*_of_all(info, in_dims, x, weight, bias), padding), (0, 0)  # type: ignore[no-untyped-call]


class _Gradients(Function):
    """Of ⟨g, convolution(x, weight, bias)⟩ in x, weight and bias, those that are wanted; `windows` are those of x."""

    @staticmethod
    def forward(
        g: torch.Tensor, x: torch.Tensor, windows: torch.Tensor, weight: torch.Tensor, padding: int, wanted: Wanted
    ) -> Gradients:
        size, rows = weight.shape[-1], g.movedim(-3, -1).flatten(-4, -2)
        of_x = of_weight = None
        if wanted[0]:
            of_x = _sum_over_windows(_matmul(rows, _of_windows(weight)), x.shape[-3:], size, padding)
        if wanted[1]:
            found = _matmul(rows.mT, windows)
            of_weight = found.reshape(*found.shape[:-1], size, size, x.shape[-3]).movedim(-1, -3)
        return of_x, of_weight, rows.sum(dim=-2) if wanted[2] else None

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        g, x, windows, weight, ctx.padding, _ = inputs
        ctx.save_for_backward(g, x, windows, weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, v_x: torch.Tensor | None, v_weight: torch.Tensor | None, v_bias: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        (g, x, windows, weight), padding = ctx.saved_tensors, ctx.padding
        nothing, of_x, of_weight = weight.new_zeros(weight.shape[-4]), None, None
        terms: list[torch.Tensor] = []
        if v_x is not None:
            y, seen = _Convolution.apply(v_x, weight, nothing, padding)  # type: ignore[no-untyped-call]
            terms.append(y)
            of_weight = _Gradients.apply(g, v_x, seen, weight, padding, (False, True, False))[1]  # type: ignore[no-untyped-call]
        if v_weight is not None:
            terms.append(convolution(x, v_weight, nothing, padding))
            of_x = _Gradients.apply(g, x, windows, v_weight, padding, (True, False, False))[0]  # type: ignore[no-untyped-call]
        if v_bias is not None:
            terms.append(v_bias[..., None, None].expand_as(g))
        # what depends on x by its windows is told of x itself
        return sum(terms[1:], terms[0]) if terms else None, of_x, None, of_weight, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Dims, g: torch.Tensor, x: torch.Tensor, windows: torch.Tensor, weight: torch.Tensor,
        padding: int, wanted: Wanted,
    ) -> tuple[Gradients, tuple[int | None, ...]]:  # fmt: skip
        found = _Gradients.apply(*_of_all(info, in_dims, g, x, windows, weight), padding, wanted)  # type: ignore[no-untyped-call]
        return found, tuple(0 if is_wanted else None for is_wanted in wanted)


class _PoolAndRelu(Function):
    """Largest of each window where that is positive, else 0; and its place in the image."""

    @staticmethod
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        largest, places = torch.ops.aten.max_pool2d_with_indices(x.flatten(0, -4), [2, 2], [2, 2])
        shape = (*x.shape[:-2], *largest.shape[-2:])
        return largest.relu_().view(shape), places.view(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)
        ctx.size = tuple(inputs[0].shape[-2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor | None, _: None) -> torch.Tensor | None:
        if g is None:
            return None
        return cast("torch.Tensor", _Spread.apply(g, *ctx.saved_tensors, ctx.size))  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Dims, x: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int]]:
        return _PoolAndRelu.apply(*_of_all(info, in_dims, x)), (0, 0)  # type: ignore[no-untyped-call]


class _Spread(Function):
    """What stands for positive pixels goes back to the places that they were taken from."""

    @staticmethod
    def forward(g: torch.Tensor, positive: torch.Tensor, places: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        g = torch.ops.aten.threshold_backward(g, positive, 0)
        like = g.new_empty(()).expand(*g.shape[:-2], *size).flatten(0, -4)  # shape and type alone are read
        found = torch.ops.aten.max_pool2d_with_indices_backward(
            g.flatten(0, -4), like, [2, 2], [2, 2], [0, 0], [1, 1], False, places.flatten(0, -4)
        )
        return cast("torch.Tensor", found).view(*g.shape[:-2], *size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[1:3])

    @staticmethod
    def backward(ctx: Any, v: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _Gather.apply(v, *ctx.saved_tensors), None, None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(
        info: Any, in_dims: Dims, g: torch.Tensor, positive: torch.Tensor, places: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, int]:
        return _Spread.apply(*_of_all(info, in_dims, g, positive, places), size), 0  # type: ignore[no-untyped-call]


class _Gather(Function):
    """What images have at the places that positive pixels were taken from, 0 elsewhere: the adjoint of `_Spread`."""

    @staticmethod
    def forward(v: torch.Tensor, positive: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        found = v.flatten(-2).gather(-1, places.flatten(-2)).reshape(places.shape)
        return torch.where(positive > 0, found, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        v, *of_places = inputs
        ctx.save_for_backward(*of_places)
        ctx.size = tuple(v.shape[-2:])

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _Spread.apply(g, *ctx.saved_tensors, ctx.size), None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Dims, *inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
        return _Gather.apply(*_of_all(info, in_dims, *inputs)), 0  # type: ignore[no-untyped-call]


def _of_all(info: Any, in_dims: Dims, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Return tensors with the clients in front; what is the same for all of them is seen K times, and not copied."""
    return [
        x.expand(info.batch_size, *x.shape) if dim is None else x if dim == 0 else x.movedim(dim, 0)
        for x, dim in zip(tensors, in_dims, strict=False)
    ]


def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.bmm(a, b) if a.ndim == b.ndim == 3 else a @ b


def _affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if x.ndim == 3:
        return torch.baddbmm(bias.unsqueeze(-2), x, weight.mT)
    return x @ weight.mT + bias.unsqueeze(-2)


def _of_windows(weight: torch.Tensor) -> torch.Tensor:
    """(…, out, in, k, k) -> (…, out, k k in)."""
    return weight.movedim(-3, -1).flatten(-3)


def _windows(x: torch.Tensor, size: int, padding: int) -> torch.Tensor:
    """(…, S, channels, height, width) -> (…, S height' width', k k channels)."""
    if padding:
        x = torch.nn.functional.pad(x, [padding] * 4)
    x = x.movedim(-3, -1).contiguous()
    *lead, height, width, channels = x.shape
    *strides, row, column, _ = x.stride()
    out = (height - size + 1, width - size + 1)
    seen = x.as_strided((*lead, *out, size, size, channels), (*strides, row, column, row, column, 1))
    return seen.reshape(*lead[:-1], lead[-1] * out[0] * out[1], size * size * channels)


def _sum_over_windows(rows: torch.Tensor, image: Sequence[int], size: int, padding: int) -> torch.Tensor:
    """Rows of windows -> images (…, S, channels, height, width), each pixel the sum of what stands for it in them."""
    channels, height, width = image
    pixels = (height + 2 * padding - size + 1) * (width + 2 * padding - size + 1)
    columns = rows.view(-1, pixels, size * size, channels).permute(0, 3, 2, 1).reshape(-1, channels * size**2, pixels)
    sums = torch.ops.aten.col2im(columns, [height, width], [size, size], [1, 1], [padding, padding], [1, 1])
    return cast("torch.Tensor", sums).reshape(*rows.shape[:-2], -1, *image)
