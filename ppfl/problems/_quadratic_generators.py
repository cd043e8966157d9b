"""Random quadratic problems, one client at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ppfl.core.rng import generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Matrices: TypeAlias = "dict[str, NDArray[np.float64]]"
"""H (p, d_θ), b (p,), A (r, d_θ), B (r, d_w) and y (r,) of one client; truth (d_θ,) where a θ_m is known to be looked
for."""

_Uniform: TypeAlias = "Callable[[int | None], list[NDArray[np.float64]]]"

Generator = Literal["comparison", "asynchronous", "byzantine", "means", "isotropic"]
Targets = Literal["own", "common"]

DEFAULTS: dict[str, dict[str, int | float | str]] = {
    "comparison": {
        "clients": 8, "shared_dimension": 100, "local_dimension": 50, "rows": 1000, "zeta": 0.0, "targets": "own",
        "noise": 0.0,
    },
    "asynchronous": {
        "clients": 40, "shared_dimension": 400, "local_dimension": 50, "rows": 10000, "zeta": 10.0, "targets": "own",
        "noise": 0.0,
    },
    "byzantine": {
        "clients": 32, "shared_dimension": 100, "local_dimension": 50, "rows": 10000, "targets": "common", "noise": 0.0,
    },
    "means": {
        "clients": 600, "shared_dimension": 1, "samples": 20, "mean": 10.0, "spread": 2.0, "noise": 15.0,
    },
    "isotropic": {"clients": 16, "shared_dimension": 20, "zeta": 10.0, "scales": "graded"},
}  # fmt: skip
"""The table of the released synthetic experiments, and those of Means and Isotropic; without `zeta` every client has
matrices of its own."""

_MAX_KEPT_BYTES = 32 << 20
"""Of draws for one seed that are kept for the next problem."""


@dataclass(frozen=True)
class Recipe:
    """Law of H_m = (U + ζ U_m)/d_θ, likewise A_m and B_m (÷ d_w), entries of U and U_m uniform on [0, 1].

    b_m = H_m θ_m* + ν ε and y_m = A_m θ_m* + B_m w_m* + ν ε with θ_m*, w_m*, ε ~ N(0, I). U is the same for all
    clients; `zeta` None means H_m = U_m/d_θ. `common` targets: one θ* for all clients, while w_m* stays each's own.
    Source: the released experiments of Mishchenko et al., TMLR 2025.
    """

    clients: int
    """M."""
    shared_dimension: int
    """d_θ."""
    local_dimension: int
    """d_w."""
    rows: int
    """Rows of H_m, A_m and B_m."""
    zeta: float | None
    """ζ."""
    targets: Targets
    noise: float
    """ν, standard deviation of what is added to b_m and y_m."""

    def clients_of(self, seed: int) -> Callable[[int], Matrices]:
        """Return what draws one client: a function of (seed, client) and of the recipe alone.

        With ζ = 0 all clients get the very same H, A and B, which are not to be changed.
        """
        shape = (self.rows, self.shared_dimension, self.local_dimension)
        size = 8 * self.rows * (2 * self.shared_dimension + self.local_dimension) * (self.clients + 1)
        # without ζ no two recipes have them in common
        is_kept = self.zeta is not None and size <= _MAX_KEPT_BYTES
        uniform = _kept_uniform(seed, *shape) if is_kept else partial(_uniform, seed, *shape)
        # drawn once, since a start with thousands of clients takes as long as their matrices do
        common = None if self.zeta is None else uniform(None)
        if self.zeta == 0.0 and common is not None:
            same = self._divided(common, [np.empty_like(base) for base in common])
            return partial(self._client, seed, lambda _client: same)
        return partial(self._client, seed, partial(self._of_client, uniform, common, is_kept))

    def _of_client(
        self, uniform: _Uniform, common: list[NDArray[np.float64]] | None, is_kept: bool, client: int
    ) -> list[NDArray[np.float64]]:
        """Return H_m, A_m and B_m."""
        found = uniform(client)
        if common is not None and self.zeta is not None:
            # in place unless they are kept: these are the largest arrays of a start
            scaled = [np.multiply(change, self.zeta, out=None if is_kept else change) for change in found]
            found = [np.add(change, base, out=change) for change, base in zip(scaled, common, strict=True)]
        return self._divided(found, found)

    def _divided(
        self, matrices: list[NDArray[np.float64]], out: list[NDArray[np.float64]]
    ) -> list[NDArray[np.float64]]:
        dimensions = (self.shared_dimension, self.shared_dimension, self.local_dimension)
        return [np.divide(*one) for one in zip(matrices, dimensions, out, strict=True)]

    def _client(self, seed: int, factors: _Uniform, client: int) -> Matrices:
        H, A, B = factors(client)
        # a common θ* is the first client's draw, so that both laws have it there
        theta_key = client if self.targets == "own" else 0
        theta = generator(seed, "quadratic shared target", client=theta_key).standard_normal(self.shared_dimension)
        w = generator(seed, "quadratic local target", client=client).standard_normal(self.local_dimension)
        noise = self.noise * generator(seed, "quadratic noise", client=client).standard_normal((2, self.rows))
        return {"H": H, "b": H @ theta + noise[0], "A": A, "B": B, "y": A @ theta + B @ w + noise[1]}


def _uniform(
    seed: int, rows: int, shared_dimension: int, local_dimension: int, client: int | None
) -> list[NDArray[np.float64]]:
    """Draw U_m of a client for H, A and B; None: U, which all clients have."""
    if client is None:
        draw = generator(seed, "quadratic matrices of all")
    else:
        draw = generator(seed, "quadratic matrices of a client", client=client)
    return [draw.random((rows, columns)) for columns in (shared_dimension, shared_dimension, local_dimension)]


@lru_cache(maxsize=1)
def _kept_uniform(seed: int, rows: int, shared_dimension: int, local_dimension: int) -> _Uniform:
    """Return what draws the same, each once: the problems of a grid over ζ have them in common."""
    return cache(partial(_uniform, seed, rows, shared_dimension, local_dimension))
