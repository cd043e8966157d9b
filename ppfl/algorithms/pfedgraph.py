"""Clients that work with those whose models have moved in the same direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import PositiveFloat

from ppfl.algorithms._simultaneous import Simultaneous
from ppfl.core.params import add_scaled, subtract, zeros_like
from ppfl.interfaces.local_training import LocalTraining, refuse_server_optimizer
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.mixing import Mixing
from ppfl.rows.simplex import on_simplex

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem

_ALIKE = 0.9
"""Cosine above which two clients count as the same."""


class PFedGraph(Mixing, Simultaneous):
    """(θ_m, w_m) ← (θ_m, w_m) − η ∇f_B(θ_m, w_m), H times from (θ̂_m, w_m), and u_m = θ_m − θ_0, θ_0 the common start;
    θ̂_i ← θ_0 + Σ_j W_ij u_j, row W_i = argmin over the simplex of λ‖a‖² + ⟨d_i − 2λp, a⟩, which is the Euclidean
    projection of p − d_i/(2λ);  d_ij = −cos(u_i, u_j), −1 where that is below −0.9, and p the weights of the mean.

    Source: Ye et al., ICML 2023, "Personalized Federated Learning with Inferred Collaboration Graphs", as in public
    code of a benchmark of data heterogeneity (2410.07286); without the paper's term in the clients' loss, which that
    leaves out, too. Local parameters w_m, the closed form, and mixing from what was sent instead of from models that
    have been overwritten are ours. θ̂_m is deployed. A client that has not moved is like others that have not: their
    cosine is 1, that with all others 0. λ → ∞ is federated averaging; λ → 0 is local training, where no other cosine
    is above 0.9.
    """

    name: Literal["pfedgraph"]
    # tried on a quadratic: 1.1 u_m instead of u_m grows exponentially, where a scaled gradient moves the fixed point
    needs_honesty: ClassVar[str] = (
        "they send all that they have moved since θ_0, what they received included, and a lie would grow with itself"
    )
    example: ClassVar[Example] = {**LocalTraining.example, "penalty": 0.5}
    penalty: PositiveFloat
    """λ, weight of ‖W_i − p‖²: how near everybody stays to the mean."""

    def init_client(self, shared: Params, local: Params) -> State:
        """û_m = 0."""
        return {"local": local, "received": zeros_like(shared)}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (u_m, w_m)."""
        received = state["received"]
        own = add_scaled(message, received, 1.0)
        step = super().client(objective, own, state, data, draws)
        moved = subtract(received, step.uplink)
        return ClientStep(moved, {**step.state, "received": received}, step.report)

    def receive(self, state: State, own: Params) -> State:
        """û_m ← Σ_j W_mj u_j."""
        return {**state, "received": own}

    def mixing(self, products: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the projections of p − d_i/(2λ), (N, N)."""
        unlike = -cosines(products)
        unlike = torch.where(unlike < -_ALIKE, -1.0, unlike)
        # what is added to a whole row changes no projection; so much is 0 for those alike, whatever λ is
        unlike = unlike - unlike.amin(dim=1, keepdim=True)
        return on_simplex(weights / weights.sum() - unlike / (2.0 * self.penalty))

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """(θ̂_m, w_m), θ̂_m = θ_0 + û_m."""
        return add_scaled(server["shared"], state["received"], 1.0), state["local"]

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse server optimizers."""
        refuse_server_optimizer(self.name, optimizer)
        return super().resolve(problem, participation, optimizer)


def cosines(products: torch.Tensor) -> torch.Tensor:
    """⟨x_i, x_j⟩ / (‖x_i‖ ‖x_j‖), (N, N); of two that are 0 it is 1, of one that is and one that is not 0."""
    # rounding can lead below 0
    norms = products.diagonal().clamp_min(0.0).sqrt()
    moved = norms > 0
    divisors = torch.where(moved, norms, 1.0)
    found = products / divisors[:, None] / divisors[None, :]
    both, none = moved[:, None] & moved[None, :], ~moved[:, None] & ~moved[None, :]
    return torch.where(both, found, none.to(products.dtype))
