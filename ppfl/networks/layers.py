"""Layers of torch in the functions of one client: torch's own, or our rules where these are vectorized.

What has no rule of ours (strides, embeddings, layer norm, softmax) has one of torch's own.
"""

from __future__ import annotations

import torch

from ppfl.core import devices
from ppfl.core.transforms import is_vectorized
from ppfl.networks import products
from ppfl.networks.convolution_forms import channels_last


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """X Wᵀ + b over the last dimension: x (S, …, in), weight (out, in), bias (out,)."""
    # strides would choose another kernel, with other rounding
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    y = products.linear(rows, weight.contiguous(), bias)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def conv2d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, stride: int = 1, padding: int = 0
) -> torch.Tensor:
    """y_o = Σ_i weight_oi ⋆ x_i + bias_o, x (S, in, height, width), weight (out, in, k, k)."""
    if is_vectorized():
        if weight.shape[-1] == 1 and not padding:
            x, stride = x[:, :, ::stride, ::stride], 1
        if stride == 1:
            # imported here: its classes are made of one of torch, which configurations are read without
            from ppfl.networks.batched import convolution

            return convolution(x, weight, weight.new_zeros(len(weight)) if bias is None else bias, padding)
    elif devices.is_host(x.device):
        x, weight = channels_last(x), channels_last(weight)
    return torch.nn.functional.conv2d(x, weight, bias, stride=stride, padding=padding)


def group_norm(x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Normalize images (S, channels, height, width) over groups of channels; weight and bias (channels,)."""
    if is_vectorized():
        from ppfl.networks.batched_normalization import group_norm as of_clients

        return of_clients(x, groups, weight, bias)
    # in the layout that convolutions leave behind: nothing is copied between the two
    x = channels_last(x) if devices.is_host(x.device) else x
    return torch.nn.functional.group_norm(x, groups, weight, bias)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(x − mean)/√(variance + 1e-5) over the last dimension, times weight plus bias, both (width,)."""
    return torch.nn.functional.layer_norm(x.contiguous(), weight.shape, weight, bias)


def dropout(x: torch.Tensor, rate: float, place: str) -> torch.Tensor:
    """x · mask / (1 − rate) in training; here the identity, which is what it is when scores are computed.

    place: names the use, so that each has a mask of its own.
    """
    return x


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """softmax(Q Kᵀ/√k, positions up to one's own) V, each head by itself; all (S, T, heads · k).

    Source: Vaswani et al., NeurIPS 2017, Section 3.2. T is small: a mask and torch's own products are as fast as any.
    """
    query, key, value = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
    length, width = query.shape[-2:]
    later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    alike = (query @ key.mT / width**0.5).masked_fill(later, -torch.inf)
    return (torch.softmax(alike, dim=-1) @ value).transpose(1, 2).flatten(2)
