"""Rand-k: k entries drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from ppfl.core.counter_hash import bits
from ppfl.interfaces.compressor import Sparsifier, as_diverged, key_draws

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Draws, Params


class RandK(Sparsifier):
    """C(x) keeps k entries drawn without replacement, as they are;  E‖C(x) − x‖² = (1 − k/D)‖x‖², α = k/D.

    Source: Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", 2018; without the factor D/k, with which it is
    unbiased and no contraction. A message has k values and the key, of 8 bytes, from which the positions follow.
    """

    name: Literal["rand_k"]
    example: ClassVar[Example] = {"share": 0.25}

    def draws(self, seed: int, client: int, round: int, what: str, size: int) -> Draws:
        """Return the key."""
        return key_draws(seed, client, round, what)

    def encode(self, x: torch.Tensor, draws: Draws) -> Params:
        """Return values and key."""
        # entries that are not sent may be those that are not finite
        values = as_diverged(x[self._positions(draws["key"], x.shape[0])], x)
        return {"values": values, "key": draws["key"].reshape(1)}

    def decode(self, message: Params, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the values where they were, 0 elsewhere."""
        values = message["values"]
        return values.new_zeros(size).scatter(0, self._positions(message["key"][0], size), values)

    def _positions(self, key: torch.Tensor, size: int) -> torch.Tensor:
        """Return (k,) of the positions in the order of random numbers."""
        # of equal ones the lower position comes first: one in 2³¹ pairs, on every device alike
        return torch.sort(bits(key.reshape(1), size)[0], stable=True).indices[: self.kept(size)]
