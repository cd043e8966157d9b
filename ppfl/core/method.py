"""The interfaces of methods: what a fine-tuner, an algorithm and a server optimizer are.

All of them are frozen values made of pure functions. Functions of one client have no control flow on values and no
randomness of their own: whatever is random comes in through `draws`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat

from ppfl.core.params import add_scaled
from ppfl.core.plugins import PlugIn

if TYPE_CHECKING:
    from ppfl.core.problem import Problem
    from ppfl.core.split import Splits
    from ppfl.core.types import Data, Draws, Params, State

_PREFIX = "optimizer."


class FineTuner(PlugIn):
    """(θ, w, data) -> w: improves the local parameters of one client with θ frozen."""

    solves_exactly: ClassVar[bool] = False
    """True when the result is w*(θ), which allows the larger step 1/L."""

    start: Literal["warm", "zero", "redraw"] = "warm"
    """w to begin with: the client's last one, zeros, or a fresh random one each round."""

    def draws(self, problem: Problem, client: int, round: int, num_samples: int) -> Draws:
        """Return random inputs of one call; `num_samples` is S of the data it will see."""
        return problem.redraw_local(client, round) if self.start == "redraw" else {}

    def begin(self, local: Params, draws: Draws) -> Params:
        """Return w to start from, as `start` says."""
        if self.start == "warm":
            return local
        if self.start == "zero":
            return {name: value * 0 for name, value in local.items()}
        return {name: draws[name] for name in local}

    @abstractmethod
    def tune(self, problem: Problem, shared: Params, local: Params, data: Data, draws: Draws) -> Params:
        """Return the tuned w; `local` is where to start, `data` may be advanced."""

    @abstractmethod
    def num_gradients(self, num_samples: int) -> float:
        """Gradients of w that one call computes, in units of one gradient over all S samples of its data."""

    def resolve(self, problem: Problem) -> FineTuner:
        """Return this fine-tuner with `theory` step sizes filled in.

        Raises ValueError when the problem cannot be tuned like this: a step that must diverge (naming the legal
        bound), mini-batches where there are no samples, an exact solution where there is no closed form.
        """
        return self

    def __call__(self, problem: Problem, shared: Params, local: Params, data: Data, draws: Draws) -> Params:
        """w ← tune(θ, begin(w)), the part of the model before the first local parameter evaluated once."""
        return self.tune(problem, shared, self.begin(local, draws), problem.advance(shared, data), draws)


class ServerOptimizer(PlugIn):
    """Turns an aggregated gradient into a direction: θ ← θ − γ·direction, γ the algorithm's own lr."""

    memoryless: ClassVar[bool] = False
    """True when the direction is the gradient itself, for which the step bounds of gradient descent hold."""

    lr: PositiveFloat = 1.0
    """Factor on the direction."""

    @abstractmethod
    def init(self, shared: Params) -> State:
        """State before the first round."""

    @abstractmethod
    def direction(self, state: State, gradient: Params) -> tuple[Params, State]:
        """Return the direction, scaled by `lr`, and the next state."""

    def step(self, server: State, gradient: Params, lr: float) -> State:
        """θ ← θ − lr·direction in the server's state; its other groups stay as they are."""
        mine = {name.removeprefix(_PREFIX): group for name, group in server.items() if name.startswith(_PREFIX)}
        direction, mine = self.direction(mine, gradient)
        return {**server, "shared": add_scaled(server["shared"], direction, -lr), **self.groups(mine)}

    def groups(self, state: State) -> State:
        """Name this optimizer's groups for the server's state."""
        return {_PREFIX + name: group for name, group in state.items()}


class Algorithm(PlugIn):
    """A federated method as pure functions. The server's state is a dict with at least the group "shared" (θ); a
    client's state at least the group "local" (w)."""

    splits: ClassVar[Splits] = "any"
    """Which splits into shared and local parameters it is made for; others are refused."""

    instead: ClassVar[str] = ""
    """Methods for other splits, named where one is refused."""

    needs_rounds: ClassVar[str] = "its server step is defined for the aggregate of a cohort"
    """Why it cannot run asynchronously; "" when it can: the server takes single uplinks, gradients or changes of θ,
    computed at an older θ, and nothing else that the server or a client keeps belongs to a round."""

    needs_mean: ClassVar[str] = ""
    """Why another rule than the mean would lead it to a wrong place; "" when it may have any."""

    server_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings that `server` and `resolve` alone look at: clients do the same whatever they are."""

    branches_on_server: ClassVar[bool] = False
    """True when what `downlink`, `uplink_like` or `view` return depends on values of the server's state, such as coins:
    runs then differ in what they send in the same round, and cannot be computed together."""

    sums_clients: ClassVar[bool] = False
    """True when `client_sum` is there."""

    @property
    def fine_tuner_of_clients(self) -> FineTuner | None:
        """Return the fine-tuner that the method uses, the default one for the final stage `tuned`."""
        return None

    def init_server(self, shared: Params, optimizer: ServerOptimizer) -> State:
        """Return the server's state before the first round."""
        return {"shared": shared, **optimizer.groups(optimizer.init(shared))}

    def init_client(self, shared: Params, local: Params) -> State:
        """Return a client's state before its first round."""
        return {"local": local}

    def downlink(self, server: State, round: int) -> Params:
        """Return what the server sends to every client of the cohort."""
        return server["shared"]

    def draws(self, problem: Problem, client: int, round: int, num_samples: int) -> Draws:
        """Return random inputs of one call of `client`."""
        return {}

    def uplink_like(self, server: State) -> Params:
        """Return tensors with the names and shapes of an uplink; values do not matter."""
        return server["shared"]

    @abstractmethod
    def client(self, problem: Problem, message: Params, state: State, data: Data, draws: Draws) -> tuple[Params, State]:
        """Return (uplink, new state) of one client; the uplink has the names of shared parameters only."""

    def client_sum(
        self, problem: Problem, message: Params, states: list[State], datas: list[Data], draws: list[Draws],
        weights: list[float],
    ) -> tuple[Params, list[State]]:  # fmt: skip
        """Return (Σ_k v_k uplink_k, new states) of several clients, none of whose uplinks is computed by itself.

        For methods that say `sums_clients`, and problems that say `has_joint_pass`.
        """
        raise NotImplementedError(f"{type(self).__name__} computes the uplink of every client")

    @abstractmethod
    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """Return the server's next state, given the aggregated uplink."""

    def server_of_cohort(
        self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int, share: float
    ) -> State:
        """Return the same, for methods whose server keeps something about the clients that did not take part, too.

        share: Σ n_m of the cohort over Σ n_m of all clients that can take part, n the weights of the mean; in (0, 1].
        """
        return self.server(state, aggregate, optimizer, round)

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """Return (θ_i, w_i) that this client would deploy now."""
        return server["shared"], state["local"]

    @abstractmethod
    def num_gradients(self, num_samples: int) -> tuple[float, float]:
        """Return gradients of θ and of w that one call of `client` computes, in units of one over all S samples."""

    def num_gradients_in(self, round: int, num_samples: int) -> tuple[float, float]:
        """Return the same for one round, for methods whose rounds compute different things."""
        return self.num_gradients(num_samples)

    def under_plain_mean(self) -> Algorithm:
        """Return this method for runs in which every aggregate is the mean over all clients, attackers on data among
        them: it may leave unsent what follows from that."""
        return self

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Algorithm:
        """Return this method with `theory` step sizes filled in.

        participation: N of the cohort over all clients with samples; 1 when all of them take part in every round.
        Raises ValueError, beginning with the key, for steps that must diverge (naming the legal bound) and for a server
        optimizer that it has no use for. The split has been checked.
        """
        return self
