"""GroupNorm of K clients by one kernel: a rule of `vmap` as those of `ppfl.networks.batched`.

torch's own rule takes the way back apart into sixty operations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd.function import Function

if TYPE_CHECKING:
    from collections.abc import Sequence

EPSILON = 1e-5
"""As in torch's own."""


def group_norm(x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(x − mean)/√(variance + 1e-5) over each group of channels, times a weight and plus a bias of each channel.

    x (S, channels, height, width), weight and bias (channels,). Source: Wu & He, ECCV 2018.
    """
    normalized = cast("torch.Tensor", _Normalized.apply(x, groups))  # type: ignore[no-untyped-call]
    return torch.addcmul(bias[:, None, None], normalized, weight[:, None, None])


class _Normalized(Function):
    @staticmethod
    def forward(x: torch.Tensor, groups: int) -> torch.Tensor:
        return _statistics(x, groups)[0].view(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, int], output: torch.Tensor) -> None:
        x, ctx.groups = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Gradient.apply(g, *ctx.saved_tensors, ctx.groups), None  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], x: torch.Tensor, groups: int) -> tuple[torch.Tensor, int]:
        assert in_dims[0] is not None
        return _Normalized.apply(x.movedim(in_dims[0], 0), groups), 0  # type: ignore[no-untyped-call]


class _Gradient(Function):
    """Of ⟨g, normalized x⟩ in x."""

    @staticmethod
    def forward(g: torch.Tensor, x: torch.Tensor, groups: int) -> torch.Tensor:
        _, mean, inverse = _statistics(x, groups)
        (channels, *size), flat = x.shape[-3:], _flat(x)
        found = torch.ops.aten.native_group_norm_backward(
            _flat(g), flat, mean, inverse, None, len(flat), channels, size[0] * size[1], groups, [True, False, False]
        )
        return cast("torch.Tensor", found[0]).view(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, int], output: torch.Tensor) -> None:
        g, x, ctx.groups = inputs
        ctx.save_for_backward(g, x)

    @staticmethod
    def backward(ctx: Any, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        # asked for by Hessians alone: by torch, operation by operation
        pull = torch.func.vjp(lambda g, x: _gradient(g, x, ctx.groups), *ctx.saved_tensors)[1]
        of_g, of_x = pull(v)
        return of_g, of_x, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Sequence[int | None], g: torch.Tensor, x: torch.Tensor, groups: int
    ) -> tuple[torch.Tensor, int]:
        both = [
            value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            for value, dim in zip((g, x), in_dims, strict=False)
        ]
        return _Gradient.apply(*both, groups), 0  # type: ignore[no-untyped-call]


def _gradient(g: torch.Tensor, x: torch.Tensor, groups: int) -> torch.Tensor:
    """(g − mean g − z · mean(g z)) / deviation, z the normalized x, means over each group."""
    shape = (*x.shape[:-3], groups, -1)
    of_groups, of_g = x.reshape(shape), g.reshape(shape)
    centred = of_groups - of_groups.mean(-1, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPSILON)
    z = centred * inverse
    found = inverse * (of_g - of_g.mean(-1, keepdim=True) - z * (of_g * z).mean(-1, keepdim=True))
    return found.reshape(x.shape)


def _statistics(x: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return x normalized, the means and the inverse deviations of all groups."""
    (channels, *size), flat = x.shape[-3:], _flat(x)
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten.native_group_norm(
        flat, None, None, len(flat), channels, size[0] * size[1], groups, EPSILON
    )
    return found


def _flat(x: torch.Tensor) -> torch.Tensor:
    """Return images with one dimension in front."""
    return x.reshape(-1, *x.shape[-3:]).contiguous()
