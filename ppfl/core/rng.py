"""Randomness from a counter: a draw depends on (seed, purpose, round, client) and on nothing else, least of all on the
rank that makes it or on what was drawn before."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np


@cache
def _purpose_key(purpose: str) -> int:
    # not `hash`, which Python salts anew in every process
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, *, round: int = 0, client: int = 0) -> np.random.Generator:
    """Return the Philox generator whose key is (seed, purpose) and whose counter starts at (client, round).

    `seed`, `round` and `client` are non-negative and below 2**64. Source: Salmon et al., SC 2011.
    """
    key = np.array([seed, _purpose_key(purpose)], dtype=np.uint64)
    # the two lowest words are left to the generator, which counts its own draws there: streams of two clients or
    # rounds would meet after 2**128 of them
    counter = np.array([0, 0, client, round], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
