"""What named methods share that differ in the split or in one setting: algorithms never import each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import PrivateAttr

from ppfl.core.local_training import LocalTraining
from ppfl.core.method import FineTuner, ServerOptimizer
from ppfl.core.params import add_scaled, map_params, subtract, zeros_like
from ppfl.core.plugins import ChosenFrom
from ppfl.core.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.core.problem import Constants, Problem
    from ppfl.core.types import Data, Draws, Params, State

_CONTROL = "control/"


class Simultaneous(LocalTraining):
    """(θ_m, w_m) ← (θ_m, w_m) − η ∇f_B(θ_m, w_m), H times from (θ, w_m);  uplink θ − θ_m."""

    def client(self, problem: Problem, message: Params, state: State, data: Data, draws: Draws) -> tuple[Params, State]:
        """Return (θ − θ_m, w_m)."""
        shared, local, lr = message, state["local"], step_size(self.lr)
        for batch in self.batches(problem, data, draws):
            of_shared, of_local = problem.gradients(shared, local, batch)
            shared, local = add_scaled(shared, of_shared, -lr), add_scaled(local, of_local, -lr)
        return subtract(message, shared), {"local": local}

    def num_gradients(self, num_samples: int) -> tuple[float, float]:
        """One of θ and one of w a step."""
        return self.num_passes(num_samples), self.num_passes(num_samples)

    def curvature(self, constants: Constants) -> float:
        """max_m λ_max(∇² f_m), θ and w taken together."""
        return constants.whole_smoothness


class Alternating(LocalTraining):
    """w_m ← tune(θ, w_m);  θ_m ← θ_m − η ∇_1 f_B(θ_m, w_m), H times from θ;  uplink θ − θ_m."""

    fine_tuner: Annotated[FineTuner, ChosenFrom("ppfl.fine_tuners")]
    """How a client improves w_m with θ frozen, before its steps on θ."""

    @property
    def fine_tuner_of_clients(self) -> FineTuner:
        """Return the fine-tuner of the rounds."""
        return self.fine_tuner

    def draws(self, problem: Problem, client: int, round: int, num_samples: int) -> Draws:
        """Return what the fine-tuner and the steps on θ draw."""
        tuning = self.fine_tuner.draws(problem, client, round, num_samples)
        return {**tuning, **super().draws(problem, client, round, num_samples)}

    def client(self, problem: Problem, message: Params, state: State, data: Data, draws: Draws) -> tuple[Params, State]:
        """Return (θ − θ_m, the tuned w_m)."""
        local = self.fine_tuner(problem, message, state["local"], data, draws)
        return subtract(message, self.shared_steps(problem, message, local, data, draws)), {"local": local}

    def num_gradients(self, num_samples: int) -> tuple[float, float]:
        """One of θ a step; those of w are the fine-tuner's."""
        return self.num_passes(num_samples), self.fine_tuner.num_gradients(num_samples)

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory` here and in the fine-tuner."""
        tuned = self.model_copy(update={"fine_tuner": self.fine_tuner.resolve(problem)})
        return super(Alternating, tuned).resolve(problem, participation, optimizer)


class ControlVariates(LocalTraining):
    """θ_m ← θ_m − η (∇_1 f_B(θ_m, w_m) − c_m + c), w_m ← w_m − η ∇_2 f_B(θ_m, w_m), H times from (θ, w_m);
    c_m ← c_m − c + (θ − θ_m)/(Hη);  uplink (θ − θ_m, new c_m − old c_m);  c ← c + (N of the cohort/N of all) · mean."""

    needs_rounds: ClassVar[str] = "its control variates follow the cohort of a round"

    _participation: float = PrivateAttr(default=1.0)  # filled in by `resolve`

    def init_server(self, shared: Params, optimizer: ServerOptimizer) -> State:
        """Return θ and c = 0."""
        return {**super().init_server(shared, optimizer), "control": zeros_like(shared)}

    def init_client(self, shared: Params, local: Params) -> State:
        """Return w_m and c_m = 0."""
        return {"local": local, "control": zeros_like(shared)}

    def downlink(self, server: State, round: int) -> Params:
        """θ and c."""
        return _with_control(server["shared"], server["control"])

    def uplink_like(self, server: State) -> Params:
        """Return the shapes of θ and c."""
        return self.downlink(server, 0)

    def client(self, problem: Problem, message: Params, state: State, data: Data, draws: Draws) -> tuple[Params, State]:
        """Return ((θ − θ_m, change of c_m), (w_m, c_m))."""
        theta, of_server = _without_control(message)
        of_client, shared, local, lr = state["control"], theta, state["local"], step_size(self.lr)
        num_steps = 0
        for batch in self.batches(problem, data, draws):
            of_shared, of_local = problem.gradients(shared, local, batch)
            corrected = map_params(lambda g, c_m, c: g - c_m + c, of_shared, of_client, of_server)
            shared, local = add_scaled(shared, corrected, -lr), add_scaled(local, of_local, -lr)
            num_steps += 1
        moved = subtract(theta, shared)
        change = add_scaled(map_params(lambda c: -c, of_server), moved, 1.0 / (num_steps * lr))
        return _with_control(moved, change), {"local": local, "control": add_scaled(of_client, change, 1.0)}

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """Step with θ's part; c moves by the part of all clients that took part."""
        moved, change = _without_control(aggregate)
        control = add_scaled(state["control"], change, self._participation)
        return {**optimizer.step(state, moved, 1.0), "control": control}

    def num_gradients(self, num_samples: int) -> tuple[float, float]:
        """One of θ and one of w a step."""
        return self.num_passes(num_samples), self.num_passes(num_samples)

    def curvature(self, constants: Constants) -> float:
        """max_m λ_max(∇² f_m), θ and w taken together."""
        return constants.whole_smoothness

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`, and remember how many clients take part."""
        resolved = super().resolve(problem, participation, optimizer)
        resolved._participation = participation
        return resolved


def _with_control(shared: Params, control: Params) -> Params:
    return {**shared, **{_CONTROL + name: value for name, value in control.items()}}


def _without_control(params: Params) -> tuple[Params, Params]:
    shared = {name: value for name, value in params.items() if not name.startswith(_CONTROL)}
    return shared, {name: params[_CONTROL + name] for name in shared}
