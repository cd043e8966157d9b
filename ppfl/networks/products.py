"""Products of matrices in functions of one client: torch's own, or one batched product where these are vectorized."""

from __future__ import annotations

import torch

from ppfl.core.transforms import is_vectorized


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A B, two matrices."""
    if is_vectorized():
        # imported here and below: its classes are made of one of torch, which configurations are read without
        from ppfl.networks.batched import product

        return product(a, b)
    return a @ b


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """X Wᵀ + b, (S, in), (out, in) and (out,)."""
    if is_vectorized():
        from ppfl.networks.batched import affine, product

        return product(x, weight, transpose_b=True) if bias is None else affine(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)
