"""Control variates at both ends: what methods share that differ in their splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from ppfl.core.params import add_scaled, map_params, subtract, zeros_like
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.theory import Constants

_CONTROL = "control/"


class ControlVariates(LocalTraining):
    """θ_m ← θ_m − η (∇_1 f_B(θ_m, w_m) − c_m + c), w_m ← w_m − η ∇_2 f_B(θ_m, w_m), H times from (θ, w_m);
    c_m ← c_m − c + (θ − θ_m)/(Hη);  uplink (θ − θ_m, Δc_m = new c_m − old c_m);  c ← c + Σ_S n_m Δc_m / Σ n_m, S the
    cohort and n the weights of the mean, so that c = Σ p_m c_m over all clients after every round."""

    needs_rounds: ClassVar[str] = "its control variates follow the cohort of a round"
    needs_mean: ClassVar[str] = (
        "its c has to stay the mean of all c_m, which no robust rule keeps: it would rest away from the solution"
    )
    needs_whole_uplinks: ClassVar[str] = "its c has to stay the mean of all c_m, of which the server would get a part"
    needs_whole_gradients: ClassVar[str] = (
        "its control variates are means of whole gradients, which cancel at a solution as clipped ones do not"
    )

    def init_server(self, shared: Params, optimizer: ServerOptimizer) -> State:
        """Return θ and c = 0."""
        return {**super().init_server(shared, optimizer), "control": zeros_like(shared)}

    def init_client(self, shared: Params, local: Params) -> State:
        """Return w_m and c_m = 0."""
        return {"local": local, "control": zeros_like(shared)}

    def downlink(self, server: State, round: int, client: int | None = None) -> Params:
        """θ and c."""
        return _with_control(server["shared"], server["control"])

    def uplink_like(self, server: State) -> Params:
        """Return the shapes of θ and c."""
        return self.downlink(server, 0)

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return ((θ − θ_m, change of c_m), (w_m, c_m))."""
        theta, of_server = _without_control(message)
        of_client, lr = state["control"], step_size(self.lr)

        def step(x: tuple[Params, Params], batch: Data) -> tuple[Params, Params]:
            of_shared, of_local = objective.gradients(*x, batch)
            corrected = map_params(lambda g, c_m, c: g - c_m + c, of_shared, of_client, of_server)
            return add_scaled(x[0], corrected, -lr), add_scaled(x[1], of_local, -lr)

        shared, local = self.iterate(step, (theta, state["local"]), data, draws)
        moved = subtract(theta, shared)
        num_steps = self.num_steps(draws)
        if isinstance(num_steps, torch.Tensor):  # several clients' on the CPU, where draws are
            num_steps = num_steps.to(next(iter(data.values())).device)
        change = add_scaled(map_params(lambda c: -c, of_server), moved, 1.0 / (num_steps * lr))
        new_state = {"local": local, "control": add_scaled(of_client, change, 1.0)}
        return ClientStep(_with_control(moved, change), new_state, self.report(draws, of_shared=1, of_local=1))

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """Return the next state after a round with all clients."""
        return self.server_of_cohort(state, aggregate, optimizer, round, 1.0)

    def server_of_cohort(
        self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int, share: float
    ) -> State:
        """Step with θ's part; c moves by the cohort's part of the mean over all clients, the others' Δc_m being 0."""
        moved, change = _without_control(aggregate)
        control = add_scaled(state["control"], change, share)
        return {**optimizer.step(state, moved, 1.0), "control": control}

    def curvature(self, constants: Constants) -> float:
        """max_m λ_max(∇² f_m), θ and w taken together."""
        return constants.whole_smoothness


def _with_control(shared: Params, control: Params) -> Params:
    return {**shared, **{_CONTROL + name: value for name, value in control.items()}}


def _without_control(params: Params) -> tuple[Params, Params]:
    shared = {name: value for name, value in params.items() if not name.startswith(_CONTROL)}
    return shared, {name: params[_CONTROL + name] for name in shared}
