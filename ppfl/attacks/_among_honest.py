"""What attacks share that hide among the honest vectors: one vector as far off as distances between those allow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from ppfl.core.plugins import Resolved
from ppfl.interfaces.attack import AttackOnVectors, Block, Knowledge, rows_of
from ppfl.rows.gram import squared_distances

if TYPE_CHECKING:
    from ppfl.rows.client_matrix import ClientMatrix


class Geometry(NamedTuple):
    """Where H honest vectors x_i lie, seen from their mean μ and along a direction p; float64."""

    distances: torch.Tensor
    """‖x_i − x_j‖², (H, H)."""
    radii: torch.Tensor
    """‖x_i − μ‖², (H,)."""
    along: torch.Tensor
    """⟨p, x_i − μ⟩, (H,)."""
    length: float
    """‖p‖²."""


class AmongHonest(AttackOnVectors, ABC):
    """x_a ← μ + γp, the same from all attackers: μ the honest mean, p a direction, γ as large as distances allow.

    Source: Shejwalkar & Houmansadr, NDSS 2021, attacks that are agnostic of the server's rule. There γ comes of steps
    that are halved; here it is the number that these approach, in closed form.
    """

    direction: Literal["unit", "sign", "std"] = "unit"
    """p: −μ/‖μ‖, minus the sign of each coordinate of μ, or minus its standard deviation over honest vectors."""
    strength: Resolved[float] = 0.0
    """γ of a round, of p as `towards` returns it."""

    @abstractmethod
    def largest(self, seen: Geometry) -> float:
        """Return γ >= 0, the largest that is allowed; ‖p‖ > 0."""

    def check(self, num_vectors: int, num_byzantine: int | None) -> None:
        """Refuse one honest vector, which has no distance to another one."""
        if num_byzantine is not None and num_vectors - num_byzantine < 2:
            raise ValueError("name: one honest vector has no distances to hide in: take another attack")

    def prepare(self, matrix: ClientMatrix, byzantine: torch.Tensor, knowledge: Knowledge) -> AttackOnVectors:
        """Choose γ. Collective."""
        seen = self._look(matrix, byzantine)
        return self.model_copy(update={"strength": self.largest(seen) if seen.length > 0.0 else 0.0})

    def vectors(self, block: Block, knowledge: Knowledge) -> torch.Tensor:
        """Return μ + γp."""
        mean = block.honest.mean(dim=0, keepdim=True)
        return mean + self.strength * self._towards(block.honest, mean)

    def _towards(self, honest: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Return p, (1, W); its length is of no matter, which γ makes up for."""
        if self.direction == "unit":
            return -mean
        return -mean.sign() if self.direction == "sign" else -honest.std(dim=0, keepdim=True, correction=0)

    def _look(self, matrix: ClientMatrix, byzantine: torch.Tensor) -> Geometry:
        """Measure, by inner products of x_i − μ and p. Collective."""
        honest = rows_of(~byzantine & matrix.finite())
        number = len(honest)

        def changed(block: torch.Tensor, _: int) -> torch.Tensor:
            of_honest = block[:number].to(torch.float64)
            mean = of_honest.mean(dim=0, keepdim=True)
            return torch.cat([of_honest - mean, self._towards(of_honest, mean)])

        # a row more than the honest ones, whatever is in it: p takes its place
        rows = torch.cat([honest, honest[:1]])
        # not `gram`, which may centre once more, and p be lost beside a row that is far longer; around μ the largest
        # of distances, which alone counts, does not cancel
        products = matrix.select(rows).map_blocks(changed).inner_products()
        of_honest, along = products[:number, :number], products[number, :number]
        return Geometry(squared_distances(of_honest), of_honest.diagonal(), along, float(products[number, number]))
