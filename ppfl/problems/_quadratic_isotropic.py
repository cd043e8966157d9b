"""Quadratics that are the same in all directions: how unlike clients are is one number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.core.rng import generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.problems._quadratic_generators import Matrices

Scales = Literal["graded", "equal"]


@dataclass(frozen=True)
class Isotropic:
    """Law of f_m(θ, w) = ½‖s_m θ − b_m‖² + ½‖w‖² with b_m ~ N(0, ζ²/i² I), i = m + 1.

    `graded` scales: s_m = i/√M, so that curvatures are i²/M; gradients at a common point differ by s_m b_m, whose
    entries have standard deviation ζ/√M. `equal` scales: s_m = 1 and i = 1, a problem that M changes in nothing but how
    many are averaged. w begins at its minimizer 0 and has no part in it.
    Source: the synthetic experiments of Islamov, Gao, Stich (arXiv 2405.20114, v1); their released code has ζ/i² for
    the variance.
    """

    clients: int
    """M."""
    shared_dimension: int
    """d_θ."""
    zeta: float
    """ζ."""
    scales: Scales
    local_dimension: ClassVar[int] = 1
    """d_w."""

    @property
    def rows(self) -> int:
        """Rows of s_m I."""
        return self.shared_dimension

    def clients_of(self, seed: int) -> Callable[[int], Matrices]:
        """Return what draws one client: a function of (seed, client) and of the law alone."""
        return partial(self._client, seed)

    def _client(self, seed: int, client: int) -> Matrices:
        # b is drawn by the client alone, so that more clients leave those before as they are but for s_m
        d, number = self.shared_dimension, client + 1 if self.scales == "graded" else 1
        scale = number / math.sqrt(self.clients) if self.scales == "graded" else 1.0
        b = self.zeta / number * generator(seed, "quadratic isotropic", client=client).standard_normal(d)
        # A = 0 keeps w apart from θ, and y = 0 leaves it where it is
        return {"H": scale * np.eye(d), "b": b, "A": np.zeros((1, d)), "B": np.eye(1), "y": np.zeros(1)}
