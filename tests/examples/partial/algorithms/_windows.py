"""Windows of coordinates that roll over a tensor from round to round, and tensors cut to them."""

from __future__ import annotations

import torch


def window(length: int, share: float, round: int) -> torch.Tensor:
    """Return the coordinates of a round, (n,) int64: so many, each round beginning one further, around the end."""
    return (round + torch.arange(max(1, round_up(share * length)))) % length


def round_up(number: float) -> int:
    """Return the smallest integer that is no less."""
    return -int(-number // 1)


def placed(values: torch.Tensor, where: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a tensor like another one, values (n,) at some coordinates."""
    return like.reshape(-1).scatter(0, where, values).reshape(like.shape)
