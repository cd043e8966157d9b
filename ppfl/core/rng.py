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


class Streams:
    """The generators of one seed and purpose, for those who draw little from each of many.

    `at(round, client)` draws what `generator(seed, purpose, round=round, client=client)` does; it is one object that is
    set anew, which takes a tenth of the time, and what was returned before goes on from there as well.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        self._generator = generator(seed, purpose)
        self._key = (seed, _purpose_key(purpose))

    def at(self, round: int, client: int) -> np.random.Generator:
        """Return the generator at the beginning of what it draws for a client in a round."""
        self._generator.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": (0, 0, client, round), "key": self._key},
            # nothing is left of numbers that were made before: four are, and the place is behind the last of them
            "buffer": (0, 0, 0, 0),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._generator
