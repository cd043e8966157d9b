"""Arithmetic of named parameters. Every function is pure and keeps the order of the names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ppfl.core import devices
from ppfl.core.transforms import is_vectorized

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ppfl.core.types import Params, State

_LARGE = 1 << 15
"""Numbers; smaller tensors are bound by calls, not by memory."""


def map_params(function: Callable[..., torch.Tensor], first: Params, *others: Params) -> Params:
    """Return {name: function(first[name], others[0][name], …)}."""
    return {name: function(value, *(other[name] for other in others)) for name, value in first.items()}


def add_scaled(x: Params, y: Params, factor: float | torch.Tensor) -> Params:
    """x + factor·y."""
    return {name: _add_scaled(value, y[name], factor) for name, value in x.items()}


def _add_scaled(x: torch.Tensor, y: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    if isinstance(factor, torch.Tensor) or not (x.numel() >= _LARGE or is_vectorized()):
        return x + factor * y
    # one pass over memory instead of two; it rounds the last elements of a tensor in another way than those before,
    # which small tensors that are computed on side by side must not see
    return torch.add(x, y, alpha=factor)


def subtract(x: Params, y: Params) -> Params:
    """x − y."""
    return {name: value - y[name] for name, value in x.items()}


def zeros_like(x: Params) -> Params:
    """0, in the shapes of x."""
    return {name: torch.zeros_like(value) for name, value in x.items()}


def inner(x: Params, y: Params) -> torch.Tensor:
    """⟨x, y⟩ over all names, a scalar."""
    total = None
    for name, value in x.items():
        term = (value * y[name]).sum()
        total = term if total is None else total + term
    if total is None:
        raise ValueError("an inner product needs at least one parameter")
    return total


def largest_entry(x: torch.Tensor) -> float:
    """max |x| of one tensor, 0 if it is empty, NaN if an entry is; amax and amin are vectorized, aminmax is not."""
    x = x.detach()
    return float(torch.maximum(x.amax(), -x.amin())) if x.numel() else 0.0


def all_finite(x: Params) -> bool:
    """Say whether no entry is NaN or inf; waits once for a device."""
    values = list(x.values())
    # a CPU has nothing to wait for, and a copy of all would take it longer
    if len(values) > 1 and not devices.is_host(values[0].device):
        values = [flatten(x)]
    return all(math.isfinite(largest_entry(value)) for value in values)


def ratio(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Return numerator / denominator, 0 where the denominator is 0; without control flow on values."""
    # twice `where`: the branch that is not taken would be NaN, and a gradient multiplies NaN by 0
    nothing = denominator == 0
    return torch.where(nothing, 0.0, numerator / torch.where(nothing, 1.0, denominator))


def weigh(x: Params, weights: Params) -> Params:
    """v·x, entry by entry, in float64; 0 where v is 0, whatever x is there."""
    return map_params(weighed, x, weights)


def weighed(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """v·x for one tensor, whose shape begins with that of v, in float64; 0 where v is 0, whatever x is there."""
    of_entries = weights.reshape(*weights.shape, *[1] * (x.ndim - weights.ndim))
    return torch.where(of_entries == 0, 0.0, x.to(torch.float64) * of_entries)  # NaN · 0 is NaN


def flatten(x: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Concatenate all values into one vector of shape (D,), in the order of the names."""
    return torch.cat([value.reshape(-1) for value in x.values()])


def as_vector(x: Params) -> torch.Tensor:
    """Return the same; of a single value not to be written to, it may be the value itself."""
    return next(iter(x.values())).reshape(-1) if len(x) == 1 else flatten(x)


def unflatten(vector: torch.Tensor, like: Params) -> Params:
    """Cut a vector of shape (D,) into the names, shapes and number types of `like`; every value owns its memory."""
    pieces = torch.split(vector, [value.numel() for value in like.values()])
    return {
        name: piece.reshape(value.shape).to(value.dtype, copy=True)
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }


def named_pieces(vector: torch.Tensor, lengths: dict[str, int]) -> Params:
    """Return named pieces of a vector that nobody else keeps; they own their memory."""
    # the vector itself: nobody else has it
    if len(lengths) < 2:
        return dict.fromkeys(lengths, vector)
    pieces = torch.split(vector, list(lengths.values()))
    return {name: piece.clone() for name, piece in zip(lengths, pieces, strict=True)}


def kinds(state: State) -> dict[str, dict[str, tuple[torch.Size, torch.dtype]]]:
    """Return shapes and number types of all tensors."""
    return {group: {name: (x.shape, x.dtype) for name, x in params.items()} for group, params in state.items()}


def num_bytes(x: Mapping[str, torch.Tensor]) -> int:
    """Size of all values in bytes."""
    return sum(value.numel() * value.element_size() for value in x.values())


def number_type(*groups: Mapping[str, torch.Tensor]) -> torch.dtype:
    """Return the type of the first numbers among them: samples may be tokens, which have none, and parameters none at
    all where nothing is shared."""
    return next(value.dtype for group in groups for value in group.values() if value.is_floating_point())
