"""Data and draws of several clients side by side, those of fewer samples padded, so that one call computes on all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ppfl.interfaces.client_data import num_samples
from ppfl.interfaces.mini_batches import UnequalClientsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Data, Draws

_INDICES = frozenset({torch.int16, torch.int32, torch.int64})


def stack_data(datas: Sequence[Data]) -> Data:
    """Return the data of K clients, (K, S, …); S is the most samples where they have different numbers.

    The key `weight`, (K, S), is there in that case alone, with 0 for rows that are not there. Raises
    UnequalClientsError where anything else than the number of samples differs. The number of torch operations does not
    depend on K.
    """
    if len({tuple((key, value.shape) for key, value in data.items()) for data in datas}) == 1:
        return {key: torch.stack([data[key] for data in datas]) for key in datas[0]}
    kinds = {tuple((key, value.shape[1:]) for key, value in data.items()) for data in datas}
    sizes = [num_samples(data) for data in datas]
    if len(kinds) > 1 or any(len(v) != size for data, size in zip(datas, sizes, strict=True) for v in data.values()):
        raise UnequalClientsError("have data that differ in more than the number of samples")
    rows, is_there = _rows(np.array(sizes))
    like = next(value for value in datas[0].values() if value.is_floating_point())
    flat, shape = torch.from_numpy(rows.reshape(-1)).to(like.device), rows.shape
    stacked = {
        key: torch.cat([data[key] for data in datas]).index_select(0, flat).reshape(*shape, *value.shape[1:])
        for key, value in datas[0].items()
    }
    return {**stacked, "weight": torch.from_numpy(is_there).to(like)}


def _rows(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where every row of every client is among the samples of all, one after another, and whether it is there.

    In the place of others stands a client's first row: what is computed on it is as finite as on samples, which it
    would not have to be on zeros. sizes: (K,); returned are (K, S).
    """
    ends, column = np.cumsum(sizes), np.arange(sizes.max())
    is_there = column < sizes[:, None]
    first = np.minimum(ends - sizes, ends[-1] - 1)  # those of a last client without samples would be beyond the end
    return np.where(is_there, column, 0) + first[:, None], is_there


def stack_draws(draws: Sequence[Draws]) -> Draws:
    """Return the draws of K clients, (K, …); integers are padded with −1 in all dimensions.

    Raises UnequalClientsError where names or the shapes of other numbers differ.
    """
    if any(draw.keys() != draws[0].keys() for draw in draws):
        raise UnequalClientsError("draw different things")
    return {key: _stack(key, [draw[key] for draw in draws]) for key in draws[0]}


def _stack(key: str, values: Sequence[torch.Tensor]) -> torch.Tensor:
    first = values[0]
    if all(value.shape == first.shape for value in values):
        return torch.stack(list(values))
    if first.dtype not in _INDICES or any(value.ndim != first.ndim for value in values):
        raise UnequalClientsError(f"draw different numbers of {key}")
    # on the host, where they were drawn, and without an operation of torch for each client
    arrays = [np.from_dlpack(value) for value in values]
    shape = np.array([array.shape for array in arrays]).max(axis=0)
    padded = np.full((len(arrays), *shape), -1, dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[tuple(slice(length) for length in array.shape)] = array
    return torch.from_numpy(padded)
