"""Random quadratic problems, one client at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ppfl.core.rng import generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Matrices: TypeAlias = "dict[str, NDArray[np.float64]]"
"""H (p, d_θ), b (p,), A (r, d_θ), B (r, d_w) and y (r,) of one client."""

Generator = Literal["comparison", "asynchronous", "byzantine"]
Targets = Literal["own", "common"]

DEFAULTS: dict[str, dict[str, int | float | str]] = {
    "comparison": {
        "clients": 8, "shared_dimension": 100, "local_dimension": 50, "rows": 1000, "zeta": 0.0, "targets": "own",
    },
    "asynchronous": {
        "clients": 40, "shared_dimension": 400, "local_dimension": 50, "rows": 10000, "zeta": 10.0, "targets": "own",
    },
    "byzantine": {
        "clients": 32, "shared_dimension": 100, "local_dimension": 50, "rows": 10000, "targets": "common",
    },
}  # fmt: skip
"""The table of the released synthetic experiments; without `zeta` every client has matrices of its own."""


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
        """Return what draws one client: a function of (seed, client) and of the recipe alone."""
        # drawn once, since a start with thousands of clients takes as long as their matrices do
        common = None if self.zeta is None else self._uniform(generator(seed, "quadratic matrices of all"))
        return partial(self._client, seed, common)

    def _client(self, seed: int, common: list[NDArray[np.float64]] | None, client: int) -> Matrices:
        H, A, B = own = self._uniform(generator(seed, "quadratic matrices of a client", client=client))
        if common is not None and self.zeta is not None:
            # in place: these are the largest arrays of a start
            for change, base in zip(own, common, strict=True):
                change *= self.zeta
                change += base
        H /= self.shared_dimension
        A /= self.shared_dimension
        B /= self.local_dimension
        # a common θ* is the first client's draw, so that both laws have it there
        theta_key = client if self.targets == "own" else 0
        theta = generator(seed, "quadratic shared target", client=theta_key).standard_normal(self.shared_dimension)
        w = generator(seed, "quadratic local target", client=client).standard_normal(self.local_dimension)
        noise = self.noise * generator(seed, "quadratic noise", client=client).standard_normal((2, self.rows))
        return {"H": H, "b": H @ theta + noise[0], "A": A, "B": B, "y": A @ theta + B @ w + noise[1]}

    def _uniform(self, draw: np.random.Generator) -> list[NDArray[np.float64]]:
        num_columns = (self.shared_dimension, self.shared_dimension, self.local_dimension)
        return [draw.random((self.rows, columns)) for columns in num_columns]
