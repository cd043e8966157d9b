"""GroupNorm in the functions of one client: torch's own, or one kernel for all clients where these are vectorized."""

from __future__ import annotations

import torch

from ppfl.core.transforms import is_vectorized


def group_norm(x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Normalize images (S, channels, height, width) over groups of channels; weight and bias (channels,)."""
    if is_vectorized():
        # imported here: its classes are made of one of torch, which configurations are read without
        from ppfl.networks.batched_normalization import group_norm as of_clients

        return of_clients(x, groups, weight, bias)
    return torch.nn.functional.group_norm(x.contiguous(), groups, weight, bias)
