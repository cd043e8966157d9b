"""Mean estimation as a quadratic problem: every client looks for a mean of its own, and knows a few samples of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ppfl.core.rng import generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.problems._quadratic_generators import Matrices


@dataclass(frozen=True)
class Means:
    """Law of f_m(θ, w) = ½‖θ − y_m‖² + ½‖w‖², y_m the mean of samples of N(μ_m, σ² I), and μ_m ~ N(μ, σ_h² I).

    y_m is drawn as what it is, μ_m + σ/√samples · ε, ε ~ N(0, I). w begins at its minimizer 0 and has no part in it.
    Source: the mean estimation in the released code of Allouah et al., NeurIPS 2024, there with vectors of length 1.
    """

    clients: int
    """M."""
    shared_dimension: int
    """d_θ."""
    samples: int
    """Of each client."""
    mean: float
    """μ, in every coordinate."""
    spread: float
    """σ_h, standard deviation of the clients' means."""
    noise: float
    """σ, standard deviation of samples about the mean of their client."""
    local_dimension: ClassVar[int] = 1
    """d_w."""

    @property
    def rows(self) -> int:
        """Samples of a client, which are its weight where clients are weighed by them."""
        return self.samples

    def clients_of(self, seed: int) -> Callable[[int], Matrices]:
        """Return what draws one client: a function of (seed, client) and of the law alone."""
        d = self.shared_dimension
        # the same objects for all clients, whose curvature is then computed and kept once
        same = {"H": np.eye(d), "A": np.zeros((1, d)), "B": np.eye(1)}
        return partial(self._client, seed, same)

    def _client(self, seed: int, same: Matrices, client: int) -> Matrices:
        draw = generator(seed, "quadratic means", client=client)
        own, error = draw.standard_normal((2, self.shared_dimension))
        truth = self.mean + self.spread * own
        return {**same, "b": truth + self.noise / math.sqrt(self.samples) * error, "y": np.zeros(1), "truth": truth}
