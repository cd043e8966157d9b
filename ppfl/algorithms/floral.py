"""Mixtures of adaptors of low rank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import NonNegativeFloat, model_validator

from ppfl.algorithms._simultaneous import Simultaneous
from ppfl.core.params import add_scaled, subtract
from ppfl.core.plugins import Resolved, refusal
from ppfl.core.rng import generator
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.mini_batches import steps_an_epoch
from ppfl.interfaces.mixture import ROUTER, Mixture
from ppfl.interfaces.step_sizes import step_size
from ppfl.networks.adaptor_gradients import preconditioned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import Report, ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem

_NOISE = "noise of routers"
_TRUE_CLUSTER = "logits of the true cluster"
_MIXTURE = "floral.mixture"


class FLoRAL(Simultaneous):
    """(u_m, a_m, w_m) ← (u_m, a_m, w_m) − η ∇f_B,  r_m ← r_m − η_r ∇f_B at r_m + noise, H times;  u ← u −
    direction(Σ_m p_m (u − u_m)),  a_c ← a_c − direction(Σ_m q_mc (a_c − a_mc)),  q_mc = p_m π_mc / Σ_j p_j π_jc.

    Source: Almansoori, Horváth, Takáč, CPAL 2025 (FLoRAL), as its code has it; the paper is said to move mixtures by an
    exponential formula. u is all that is shared but for the adaptors a_c that `problem.split.floral` adds, π_m =
    softmax(r_m / temperature); the router r_m is local, and whatever else the split keeps local is w_m. Adaptors that
    are local are trained and not sent. Without adaptors it is FedSim, and FedAvg with nothing local. An adaptor that
    has no weight in a round stays as it is.
    """

    name: Literal["floral"]
    needs_rounds: ClassVar[str] = "an adaptor is averaged over the clients of a round, by what their routers say"
    needs_whole_uplinks: ClassVar[str] = "its adaptors are averaged by weights that are sent, too, and have to be whole"
    needs_mean: ClassVar[str] = "adaptors are averaged by what routers say, of which other rules know nothing"
    example: ClassVar[Example] = {**LocalTraining.example, "router_lr": 0.1}
    router_lr: NonNegativeFloat
    """η_r; 0 keeps the mixture as it is."""
    noise: NonNegativeFloat = 1.0
    """Factor of Uniform[0, 1)^C, drawn in every step and added to the logits, in training alone."""
    precondition: bool = False
    """Gradients of factors times (UᵀU + εI)⁻¹ and (VVᵀ + εI)⁻¹, of kernels over the norms of these; ε = 1e-5."""
    router: Literal["learned", "optimal"] = "learned"
    """`optimal`: π_m is 1 at the true cluster of client m, which its data know, from its first round on."""
    mixture: Resolved[Mixture | None] = None
    shared_adaptors: Resolved[tuple[str, ...]] = ()
    """Names of their parameters that are sent."""
    clusters: Resolved[tuple[int, ...]] = ()
    """Of all M clients, where they are the routers."""

    @model_validator(mode="after")
    def _an_optimal_router_stays(self) -> Self:
        if self.router == "optimal" and self.router_lr:
            raise refusal("router_lr", "0 with `router: optimal`, which is not learned")
        return self

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return the noise of every step, (steps, C), too; or the logits of the true cluster."""
        found = super().draws(objective, client, round, num_samples)
        if self.mixture is None:
            return found
        number = self.mixture.num_adaptors
        if self.clusters:
            # no large number in its place: an adaptor is moved by those of its cluster alone, exactly
            logits = torch.full((number,), -math.inf, dtype=torch.float64)
            logits[self.clusters[client]] = 0.0
            return {**found, _TRUE_CLUSTER: logits}
        if not self.noise:
            return found
        an_epoch = 1 if self.batch_size == "all" else steps_an_epoch(num_samples, self.batch_size)
        # of all steps at once, so that they do not depend on who is computed beside it
        random = generator(objective.seed, _NOISE, round=round, client=client)
        noise = random.uniform(0.0, self.noise, (self._steps_of(an_epoch), number))
        return {**found, _NOISE: torch.from_numpy(noise)}

    def sent_weights(self) -> Mapping[str, str]:
        """Adaptors are weighed by the mixture of who sends them."""
        return dict.fromkeys(self.shared_adaptors, _MIXTURE)

    def uplink_like(self, server: State) -> Params:
        """Return θ, and the mixture (adaptors,) where adaptors are shared."""
        if not self.shared_adaptors:
            return server["shared"]
        first = server["shared"][self.shared_adaptors[0]]
        return {**server["shared"], _MIXTURE: torch.zeros_like(first.reshape(len(first), -1)[:, 0])}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m and π_m, (w_m, r_m)), and tell the mixture as `router_0`, `router_1`, …"""
        mixture, local = self.mixture, state["local"]
        if mixture is None:
            return super().client(objective, message, state, data, draws)
        if _TRUE_CLUSTER in draws:
            local = {**local, ROUTER: draws[_TRUE_CLUSTER].to(local[ROUTER])}
        shared, local, _ = self.iterate(self._step(objective, mixture, draws), (message, local, 0), data, draws)
        # where the router has come, without noise and without the least weight that layers know
        weights = torch.softmax(local[ROUTER] / mixture.temperature, dim=0)
        sent = {_MIXTURE: weights} if self.shared_adaptors else {}
        told: Report = {f"router_{number}": weight for number, weight in enumerate(weights.unbind(0))}
        report = {**self.report(draws, of_shared=1, of_local=1), **told}
        return ClientStep({**subtract(message, shared), **sent}, {"local": local}, report)

    def _step(
        self, objective: Objective, mixture: Mixture, draws: Draws
    ) -> Callable[[tuple[Params, Params, int], Data], tuple[Params, Params, int]]:
        lr = step_size(self.lr)

        def step(x: tuple[Params, Params, int], batch: Data) -> tuple[Params, Params, int]:
            shared, local, number = x
            router, seen = local[ROUTER], local
            if _NOISE in draws:
                seen = {**local, ROUTER: router + draws[_NOISE][number].to(router)}
            of_shared, of_local = objective.gradients(shared, seen, batch)
            of_router = of_local[ROUTER]
            if self.precondition:
                better = preconditioned({**of_shared, **of_local}, {**shared, **local}, mixture)
                of_shared, of_local = ({name: better[name] for name in part} for part in (of_shared, of_local))
            moved = add_scaled(local, of_local, -lr)
            # asks a word and not the step, which is a tensor where runs are computed side by side
            moved[ROUTER] = router if self.router == "optimal" else router - self.router_lr * of_router
            return add_scaled(shared, of_shared, -lr), moved, number + 1

        return step

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """θ ← θ − direction of the server optimizer; the mean mixture is of no use to it."""
        return super().server(state, {name: aggregate[name] for name in state["shared"]}, optimizer, round)

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`, the adaptors of the model and who is in which cluster; refuse routers that are not local,
        and optimal ones where clients have no clusters, or more than there are adaptors."""
        resolved = super().resolve(problem, participation, optimizer)
        mixture = problem.objective.mixture
        if mixture is None:
            return resolved
        local = problem.local_names
        if ROUTER not in local:
            raise ValueError(
                f"name: {self.name!r} trains a router of each client; add {ROUTER!r} to problem.split.local, which "
                f"has {', '.join(local) or 'nothing'}"
            )
        shared = problem.objective.init_shared()
        sent = tuple(name for name in mixture.names if name in shared)
        clusters = self._clusters_of(problem, mixture) if self.router == "optimal" else ()
        return resolved.model_copy(update={"mixture": mixture, "shared_adaptors": sent, "clusters": clusters})

    def _clusters_of(self, problem: Problem, mixture: Mixture) -> tuple[int, ...]:
        found = problem.client_data.client_facts().get("cluster")
        if found is None:
            raise ValueError(
                "router: 'optimal' is the true cluster of a client, and these clients have none; use 'learned', or a "
                "problem.dataset.shift"
            )
        most = int(found.max()) + 1
        if most > mixture.num_adaptors:
            raise ValueError(
                f"router: 'optimal' needs an adaptor for each of {most} clusters, and problem.split.floral.adaptors is "
                f"{mixture.num_adaptors}; use 'learned', or adaptors: {most}"
            )
        return tuple(found.tolist())
