"""Layers of torch in the functions of one client: torch's own, or our rules where these are vectorized.

What has no rule of ours (strides, embeddings, layer norm, softmax) has one of torch's own.
"""

from __future__ import annotations

import torch

from ppfl.core import devices
from ppfl.core.transforms import is_transformed, is_vectorized
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
    if devices.is_host(x.device):
        # in the layout that convolutions leave behind, so that nothing is copied between the two; but where nobody asks
        # for the gradient of x, torch's kernel of that layout writes it all the same, to where there is no memory
        is_wanted = not is_transformed() and (x.requires_grad or not torch.is_grad_enabled())
        x = channels_last(x) if is_wanted else x.contiguous()
    return torch.nn.functional.group_norm(x, groups, weight, bias)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(x − mean)/√(variance + 1e-5) over the last dimension, times weight plus bias, both (width,)."""
    return torch.nn.functional.layer_norm(x.contiguous(), weight.shape, weight, bias)


def lstm_layer(
    x: torch.Tensor,
    of_input: torch.Tensor,
    of_state: torch.Tensor,
    *biases: torch.Tensor,
    start: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the states (S, T, hidden) of a layer, and its last state and memory (S, hidden); it starts with 0 or such.

    x (S, T, in), weights (4 hidden, in) and (4 hidden, hidden), biases (4 hidden,), of the input, forget, cell and
    output gates, as in `torch.nn.LSTM`. Source: Hochreiter & Schmidhuber, Neural Computation 1997.
    """
    # what the input says, of all positions by one product
    said = linear(x, of_input, sum(biases[1:], biases[0]) if biases else None)
    state, memory = start or (said.new_zeros(len(x), of_state.shape[1]),) * 2
    states = []
    # explicitly over time: torch's own layer cannot be vectorized
    for gates in said.unbind(dim=1):
        enter, forget, new, leave = (gates + linear(state, of_state)).chunk(4, dim=-1)
        memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * torch.tanh(new)
        state = torch.sigmoid(leave) * torch.tanh(memory)
        states.append(state)
    return torch.stack(states, dim=1), state, memory


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """`attention` to positions up to one's own, each head by itself; all (S, T, heads · k)."""
    query, key, value = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
    return attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(scale · Q Kᵀ + mask) V, (…, T, k), scale 1/√k; a mask of booleans is true for what is seen.

    Source: Vaswani et al., NeurIPS 2017, Section 3.2. torch's own kernels cannot be vectorized, and T is small.
    """
    alike = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(alike.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        # −inf and not a large number: softmax then gives 0 exactly, and later tokens change no bit of earlier ones
        alike = alike.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else alike + mask
    return torch.softmax(alike, dim=-1) @ value
