"""Quadratic losses whose gradients are known but for noise, another one in every round."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ppfl.core.rng import Streams
from ppfl.interfaces.client_data import Statistics

if TYPE_CHECKING:
    from ppfl.core.types import Data


class NoisyStatistics(Statistics):
    """Statistics whose linear parts c_s and c_l have, in a round, σ/√D ξ added to them, ξ ~ N(0, I), D the length of
    each: so all gradients of a client in that round have the same noise, E‖noise‖² = σ² in what is shared and in what
    is local. Keyed (seed, round, client); scores and the final stage see the statistics as they are."""

    fixed_data = False

    def __init__(self, exact: Statistics, deviation: float, seed: int) -> None:
        """deviation: σ."""
        super().__init__(
            exact.client_names,
            exact.num_train_samples,
            exact.clients,
            {client: exact.data(client, 0) for client in exact.clients},
            exact.clients_per_chunk,
        )
        self._deviation = deviation
        self._draws = Streams(seed, "gradient noise")

    def data(self, client: int, round: int) -> Data:
        """Return the statistics of a round."""
        data = self._of_client[client]
        # one stream for both parts, drawn in this order always
        draw, noisy = self._draws.at(round, client), {}
        for name in ("shared_linear", "local_linear"):
            exact = data[name]
            # where nothing is shared, or nothing local, there is nothing to disturb
            scale = self._deviation / math.sqrt(max(len(exact), 1))
            noise = scale * torch.from_numpy(draw.standard_normal(len(exact)))
            noisy[name] = exact + noise.to(exact.device, exact.dtype)
        return {**data, **noisy}
