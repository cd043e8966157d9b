"""No communication."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from ppfl.core.params import add_scaled
from ppfl.interfaces.local_training import LocalTraining, refuse_server_optimizer
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.step_sizes import refuse_divergence, step_size

if TYPE_CHECKING:
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem
    from ppfl.interfaces.theory import Constants


class LocalOnly(LocalTraining):
    """(θ_m, w_m) ← (θ_m, w_m) − η ∇f_B(θ_m, w_m), H times, on the client's own θ_m; nothing is sent.

    Source: the usual baseline without federation. θ_m starts at θ_0 and θ stays there.
    """

    name: Literal["local_only"]
    needs_rounds: ClassVar[str] = "its clients send nothing that could arrive"
    needs_honesty: ClassVar[str] = "its clients send nothing that they could change"
    needs_whole_uplinks: ClassVar[str] = "its clients send nothing"

    def init_client(self, shared: Params, local: Params) -> State:
        """Return w_m and θ_m = θ_0."""
        return {"local": local, "personal": shared}

    def downlink(self, server: State, round: int, client: int | None = None) -> Params:
        """Return nothing."""
        return {}

    def uplink_like(self, server: State) -> Params:
        """Return nothing."""
        return {}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (nothing, (θ_m, w_m))."""
        lr = step_size(self.lr)

        def step(x: tuple[Params, Params], batch: Data) -> tuple[Params, Params]:
            of_own, of_local = objective.gradients(*x, batch)
            return add_scaled(x[0], of_own, -lr), add_scaled(x[1], of_local, -lr)

        own, local = self.iterate(step, (state["personal"], state["local"]), data, draws)
        return ClientStep({}, {"local": local, "personal": own}, self.report(draws, of_shared=1, of_local=1))

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """Return θ as it is."""
        return state

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """(θ_m, w_m)."""
        return state["personal"], state["local"]

    def curvature(self, constants: Constants) -> float:
        """max_m λ_max(∇² f_m), θ and w taken together."""
        return constants.whole_smoothness

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse η > 2/max_m λ_max(∇² f_m), and server optimizers."""
        refuse_server_optimizer(self.name, optimizer)
        constants = problem.theory.constants()
        refuse_divergence(self.lr, None if constants is None else self.curvature(constants), "2/max_m λ_max(∇² f_m)")
        return super().resolve(problem, participation, optimizer)
