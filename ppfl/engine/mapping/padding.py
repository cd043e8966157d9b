"""What several clients draw, side by side, that of fewer samples padded, so that one call computes on all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ppfl.interfaces.mini_batches import PADDED_DRAWS, UnequalClientsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.core.types import Draws


def stacked(of_clients: Sequence[Mapping[str, torch.Tensor]], what: str) -> dict[str, torch.Tensor]:
    """Return named tensors of K clients, (K, …). Raises UnequalClientsError, which says `what`, for unlike ones."""
    if len({shapes(tensors) for tensors in of_clients}) > 1:
        raise UnequalClientsError(what)
    return {name: torch.stack([tensors[name] for tensors in of_clients]) for name in of_clients[0]}


def shapes(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[str, torch.Size], ...]:
    """Return names and shapes, equal for what can be stacked."""
    return tuple((name, value.shape) for name, value in tensors.items())


def stack_draws(draws: Sequence[Draws]) -> Draws:
    """Return the draws of K clients, (K, …); mini-batches (steps, B) are padded with −1.

    Raises UnequalClientsError where names or the shapes of other draws differ: what a method draws by itself it may use
    as it likes, also in ways to which −1 means the last sample.
    """
    if any(draw.keys() != draws[0].keys() for draw in draws):
        raise UnequalClientsError("draw different things")
    return {key: _stack(key, [draw[key] for draw in draws]) for key in draws[0]}


def _stack(key: str, values: Sequence[torch.Tensor]) -> torch.Tensor:
    first = values[0]
    if all(value.shape == first.shape for value in values):
        return torch.stack(list(values))
    # under "0/order of samples" by those that tune several times a round
    if key.rpartition("/")[2] not in PADDED_DRAWS:
        raise UnequalClientsError(f"draw different numbers of {key}")
    # on the host, where they were drawn, and without an operation of torch for each client
    arrays = [np.from_dlpack(value) for value in values]
    shape = np.array([array.shape for array in arrays]).max(axis=0)
    padded = np.full((len(arrays), *shape), -1, dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[tuple(slice(length) for length in array.shape)] = array
    return torch.from_numpy(padded)
