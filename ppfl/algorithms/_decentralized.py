"""What nodes without a server have in common: a gradient of θ at their own x_i, with w_i tuned before where some
parameters are local."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple, Self

from pydantic import PositiveFloat

from ppfl.core.plugins import ChosenFrom
from ppfl.interfaces.gossip import Gossip
from ppfl.interfaces.local_training import refuse_server_optimizer
from ppfl.interfaces.method import ClientStep, FineTuner
from ppfl.interfaces.schedule import Scheduled

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import Report, ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem


class Computed(NamedTuple):
    """What a node has found out on its own."""

    gradient: Params
    """g_i = ∇_1 f_i(x_i, w_i)."""
    local: Params
    """w_i, tuned."""
    report: Report


class Decentralized(Scheduled, Gossip):
    """g_i = ∇_1 f_i(x_i, w_i) after w_i ← tune(x_i, w_i), on the data of the round; without local parameters ∇f_i(x_i).

    All x_i begin at θ_0. With local parameters methods are new combinations: FFGG without its server.
    """

    example: ClassVar[Example] = {"lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1}}
    lr: PositiveFloat
    """η."""
    fine_tuner: Annotated[FineTuner, ChosenFrom("ppfl.fine_tuners")] | None = None
    """How a node improves w_i with x_i frozen; null where nothing is local."""

    @property
    def fine_tuner_of_clients(self) -> FineTuner | None:
        """Return the fine-tuner of the rounds."""
        return self.fine_tuner

    @abstractmethod
    def begin(self, shared: Params) -> State:
        """Return what a node keeps beside x_i and w_i, before the first round."""

    @abstractmethod
    def messages_like(self, shared: Params) -> Params:
        """Return tensors with the names and shapes of what a node sends."""

    @abstractmethod
    def moved(
        self, objective: Objective, found: Computed, state: State, data: Data, draws: Draws
    ) -> tuple[Params, State]:
        """Return what a node sends, and what changes of its state beside w_i."""

    def init_client(self, shared: Params, local: Params) -> State:
        """x_i = θ_0."""
        return {"local": local, "model": shared, **(self.begin(shared) if shared else {})}

    def uplink_like(self, server: State) -> Params:
        """Return tensors with the names and shapes of what a node sends; nothing where nothing is shared."""
        return self.messages_like(server["shared"]) if server["shared"] else {}

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return what the fine-tuner draws."""
        return {} if self.fine_tuner is None else self.fine_tuner.draws(objective, client, round, num_samples)

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Compute g_i and w_i, and what follows from them."""
        found = self.computed(objective, state["model"], state, data, draws)
        sent: Params = {}
        changed: State = {}
        if state["model"]:
            sent, changed = self.moved(objective, found, state, data, draws)
        return ClientStep(sent, {**state, "local": found.local, **changed}, found.report)

    def computed(self, objective: Objective, model: Params, state: State, data: Data, draws: Draws) -> Computed:
        """Return g_i at x_i = `model`, and the tuned w_i."""
        if self.fine_tuner is None:
            gradient = objective.shared_gradient(model, state["local"], data)
            return Computed(gradient, state["local"], {"shared_gradients": 1.0})
        once = objective.shared_pass(model, data)
        local, num_gradients = self.fine_tuner(objective, model, state["local"], once.data, draws)
        report = {"shared_gradients": 1.0, "local_gradients": num_gradients}
        return Computed(once.shared_gradient(local), local, report)

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in the fine-tuner's `theory`; refuse server optimizers, and local parameters that nobody would train."""
        refuse_server_optimizer(self.name, optimizer)
        if self.fine_tuner is None:
            if problem.local_names:
                raise ValueError(
                    f"fine_tuner: nothing trains {', '.join(problem.local_names)}, which problem.split keeps local; "
                    "name a fine-tuner, or set problem.split: {local: []}"
                )
            return self
        return self.model_copy(update={"fine_tuner": self.fine_tuner.resolve(problem)})
