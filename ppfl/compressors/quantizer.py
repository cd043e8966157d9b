"""Random rounding to a few levels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field

from ppfl.core import counter_hash
from ppfl.core.bit_packing import pack, unpack
from ppfl.interfaces.compressor import Compressor, as_diverged, key_draws

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Draws, Params


class Quantizer(Compressor):
    """C(x) = (m/(s τ)) sign(x_i) ⌊s|x_i|/m + ξ_i⌋, m = max|x_i|, ξ_i uniform on [0, 1), s = 2^(b−1) − 1;  α = 1/τ.

    Without τ the mean is x and the variance at most ω‖x‖², ω = min(D/(4s²), √D/s), since each entry has at most
    (m/s)² p(1 − p), p the fractional part of s|x_i|/m, and m ≤ ‖x‖; dividing by τ = 1 + ω makes it a contraction:
    E‖C(x) − x‖² = (1 − 1/τ)²‖x‖² + variance/τ² ≤ (1 − 1/τ)‖x‖². Source: Alistarh et al., NeurIPS 2017 (QSGD), there
    with ‖x‖ in the place of m; the scaling by 1/τ: Koloskova, Stich, Jaggi, ICML 2019. We take m, which no order of
    summation changes, and the bound with it is ours. A message has b bits an entry, and m.
    """

    name: Literal["quantizer"]
    example: ClassVar[Example] = {"bits": 4}
    bits: Annotated[int, Field(ge=2, le=24)]
    """b, of an entry, its sign included: 2s + 1 levels."""

    @property
    def levels(self) -> int:
        """Return s."""
        return (1 << (self.bits - 1)) - 1

    def contraction(self, size: int) -> float:
        """Return 1/τ."""
        return 1.0 / (1.0 + min(size / (4 * self.levels**2), math.sqrt(size) / self.levels))

    def draws(self, seed: int, client: int, round: int, what: str, size: int) -> Draws:
        """Return the key of ξ."""
        return key_draws(seed, client, round, what)

    def encode(self, x: torch.Tensor, draws: Draws) -> Params:
        """Return levels and m; NaN for m where not all of x is finite."""
        size, largest = x.shape[0], x.abs().amax()
        # in float64, where s|x|/m + ξ is exact enough for any b; 0 has level 0, whatever it is divided by
        share = x.abs().to(torch.float64) / torch.where(largest > 0, largest, 1.0)
        drawn = counter_hash.bits(draws["key"].reshape(1), size)[0] / (1 << counter_hash.BITS)
        level = torch.floor(share.nan_to_num(0.0, 0.0) * self.levels + drawn).clamp(max=self.levels).to(torch.int64)
        signed = torch.where(x < 0, -level, level) + self.levels
        return {"levels": pack(signed, self.bits), "largest": as_diverged(largest.reshape(1), x)}

    def decode(self, message: Params, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Return m · level/(s τ)."""
        signed = unpack(message["levels"], size, self.bits) - self.levels
        scaled = signed.to(torch.float64) * (self.contraction(size) / self.levels)
        return (scaled * message["largest"]).to(dtype)
