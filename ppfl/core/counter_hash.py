"""Random numbers in plain integer operations of torch: the same bits on every device, inside of vectorized functions
too, where generators cannot be."""

from __future__ import annotations

import hashlib
from functools import cache

import torch

_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB, as int64 has them."""
BITS = 31
"""Of what `bits` returns."""


def with_number(keys: torch.Tensor, number: int) -> torch.Tensor:
    """Return other keys for another number; int64, any shape."""
    return _mixed(keys ^ _signed(number * (_GOLDEN & _ALL)))


def with_name(keys: torch.Tensor, name: str) -> torch.Tensor:
    """Return other keys for another name."""
    return _mixed(keys ^ _number_of(name))


def bits(keys: torch.Tensor, number: int) -> torch.Tensor:
    """Return uniform integers below 2³¹, (S, number) int64, of keys (S,).

    Source: Steele, Lea, Flood, OOPSLA 2014 (SplitMix64): the mixed counter key + position · γ, its highest bits.
    """
    counter = torch.arange(1, number + 1, device=keys.device) * _GOLDEN
    return _shifted(_mixed(keys[:, None] + counter), 64 - BITS)


_ALL = (1 << 64) - 1


def _mixed(z: torch.Tensor) -> torch.Tensor:
    # products of int64 wrap around, as those of unsigned numbers do
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: torch.Tensor, number: int) -> torch.Tensor:
    """z >> number without the sign, which torch would shift in."""
    return (z >> number) & ((1 << (64 - number)) - 1)


@cache
def _number_of(name: str) -> int:
    # not `hash`, which Python salts anew in every process
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _signed(number: int) -> int:
    number &= _ALL
    return number - (1 << 64) if number >> 63 else number
