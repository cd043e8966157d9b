"""The interfaces of methods: what a fine-tuner, an algorithm and a server optimizer are.

All of them are frozen values made of pure functions. Functions of one client have no control flow on values and no
randomness of their own: whatever is random comes in through `draws`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import PositiveFloat

from ppfl.core.params import add_scaled, num_bytes
from ppfl.interfaces.schedule import InRounds, Scheduled

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem
    from ppfl.interfaces.split import Splits

_PREFIX = "optimizer."

Report: TypeAlias = "Mapping[str, float | torch.Tensor]"
"""Named scalars that one client tells of one call: numbers, or tensors () where they depend on values.

`shared_gradients` and `local_gradients` are counted as costs: gradients of θ and of w that it computed, in units of one
over all S samples of its data. Left out means none.
"""


@dataclass(frozen=True)
class ClientStep:
    """What one call of a client gives."""

    uplink: Params
    """What it sends; names of shared parameters only."""
    state: State
    """Its next state."""
    report: Report = field(default_factory=dict)


class Tuned(NamedTuple):
    """What a fine-tuner gives."""

    local: Params
    """w."""
    num_gradients: float | torch.Tensor
    """Gradients of w that it computed, in units of one over all S samples of its data."""


class FineTuner(InRounds):
    """(θ, w, data) -> w: improves the local parameters of one client with θ frozen.

    A fine-tuner is one function of one client; what begins it, and what is drawn for it, is the engine's business:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.method import FineTuner, Tuned
    >>> class SignDescent(FineTuner):
    ...     name: Literal["sign_descent"]
    ...     steps: int
    ...     lr: float
    ...
    ...     def tune(self, objective, shared, local, data, draws):
    ...         for _ in range(self.steps):
    ...             gradient = objective.local_gradient(shared, local, data)
    ...             local = {name: w - self.lr * gradient[name].sign() for name, w in local.items()}
    ...         return Tuned(local, num_gradients=float(self.steps))
    >>> class Parabola:  # all of an objective that this one asks for
    ...     def local_gradient(self, shared, local, data):
    ...         return {"w": local["w"] - data["goal"]}
    >>> tuner = SignDescent(name="sign_descent", steps=3, lr=0.5)
    >>> tuner.tune(Parabola(), {}, {"w": torch.zeros(2)}, {"goal": torch.tensor([4.0, -4.0])}, {})
    Tuned(local={'w': tensor([ 1.5000, -1.5000])}, num_gradients=3.0)
    """

    needs_whole_gradients: ClassVar[str] = ""
    """Why gradients of bounded norm (`problem.training.clip_norm`) would make another of it; "" where not."""

    start: Literal["warm", "zero", "redraw"] = "warm"
    """w to begin with: the client's last one, zeros, or a fresh random one each round."""

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return random inputs of one call; `num_samples` is S of the data it will see."""
        return objective.redraw_local(client, round) if self.start == "redraw" else {}

    def begin(self, local: Params, draws: Draws) -> Params:
        """Return w to start from, as `start` says."""
        if self.start == "warm":
            return local
        if self.start == "zero":
            return {name: value * 0 for name, value in local.items()}
        return {name: draws[name] for name in local}

    @abstractmethod
    def tune(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Tuned:
        """Return the tuned w and what it has cost; `local` is where to start, `data` may be advanced."""

    def resolve(self, problem: Problem) -> FineTuner:
        """Return this fine-tuner with `theory` step sizes filled in.

        Raises ValueError when the problem cannot be tuned like this: a step that must diverge (naming the legal
        bound), mini-batches where there are no samples, an exact solution where there is no closed form.
        """
        return self

    def __call__(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Tuned:
        """w ← tune(θ, begin(w)), the part of the model before the first local parameter evaluated once."""
        return self.tune(objective, shared, self.begin(local, draws), objective.advance(shared, data), draws)


class ExactFineTuner(FineTuner):
    """w ← w*(θ) = argmin_w f(θ, w), wherever it starts: θ then descends on F_m, which allows the larger step 1/L.

    It says how w* is found, for no gradient:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.method import ExactFineTuner
    >>> class Goal(ExactFineTuner):
    ...     name: Literal["goal"]
    ...
    ...     def solve(self, objective, shared, data):
    ...         return {"w": data["goal"] - shared["theta"]}
    >>> shared, data = {"theta": torch.ones(1)}, {"goal": torch.full((1,), 3.0)}
    >>> Goal(name="goal").tune(None, shared, {"w": torch.zeros(1)}, data, {})
    Tuned(local={'w': tensor([2.])}, num_gradients=0.0)
    """

    needs_whole_gradients: ClassVar[str] = "∇F_m(θ) = ∇_1 f_m(θ, w*) is the whole gradient at w*, and w* has none"

    @abstractmethod
    def solve(self, objective: Objective, shared: Params, data: Data) -> Params:
        """Return w*(θ); `data` may be advanced."""

    def tune(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Tuned:
        """Return w*(θ) and no gradients."""
        return Tuned(self.solve(objective, shared, data), 0.0)


class ServerOptimizer(Scheduled):
    """Turns an aggregated gradient into a direction: θ ← θ − γ·direction, γ the algorithm's own lr.

    What it remembers between rounds is a state of named groups, which checkpoints know how to keep:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.method import ServerOptimizer
    >>> class Sum(ServerOptimizer):
    ...     name: Literal["sum"]
    ...
    ...     def init(self, shared):
    ...         return {"total": {name: torch.zeros_like(x) for name, x in shared.items()}}
    ...
    ...     def direction(self, state, gradient):
    ...         total = {name: x + gradient[name] for name, x in state["total"].items()}
    ...         return {name: self.lr * x for name, x in total.items()}, {"total": total}
    >>> optimizer = Sum(name="sum", lr=0.5)
    >>> theta, gradient = {"theta": torch.zeros(2)}, {"theta": torch.ones(2)}
    >>> server = {"shared": theta, **optimizer.groups(optimizer.init(theta))}
    >>> for _ in range(2):
    ...     server = optimizer.step(server, gradient, lr=0.1)
    >>> server["shared"]
    {'theta': tensor([-0.1500, -0.1500])}
    """

    lr: PositiveFloat = 1.0
    """Factor on the direction."""

    @abstractmethod
    def init(self, shared: Params) -> State:
        """State before the first round."""

    @abstractmethod
    def direction(self, state: State, gradient: Params) -> tuple[Params, State]:
        """Return the direction, scaled by `lr`, and the next state."""

    def largest_step(self, curvature: float) -> float:
        """Return the γ above which it must diverge on a quadratic of this λ_max; ∞ where none is known."""
        return math.inf

    def step(self, server: State, gradient: Params, lr: float) -> State:
        """θ ← θ − lr·direction in the server's state; its other groups stay as they are."""
        mine = {name.removeprefix(_PREFIX): group for name, group in server.items() if name.startswith(_PREFIX)}
        direction, mine = self.direction(mine, gradient)
        return {**server, "shared": add_scaled(server["shared"], direction, -lr), **self.groups(mine)}

    def groups(self, state: State) -> State:
        """Name this optimizer's groups for the server's state."""
        return {_PREFIX + name: group for name, group in state.items()}


class Algorithm(InRounds):
    """A federated method as pure functions. The server's state is a dict with at least the group "shared" (θ); a
    client's state at least the group "local" (w).

    What one client does, and what the server does with the aggregate, is all that a method must say:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.method import Algorithm, ClientStep
    >>> from ppfl.server_optimizers.sgd import Sgd
    >>> class GradientDescent(Algorithm):
    ...     name: Literal["gradient_descent"]
    ...     lr: float
    ...
    ...     def client(self, objective, message, state, data, draws):
    ...         gradient = objective.shared_gradient(message, state["local"], data)
    ...         return ClientStep(gradient, state, {"shared_gradients": 1.0})
    ...
    ...     def server(self, state, aggregate, optimizer, round):
    ...         return optimizer.step(state, aggregate, self.lr)
    >>> class Parabola:  # all of an objective that this one asks for
    ...     def shared_gradient(self, shared, local, data):
    ...         return {"theta": shared["theta"] - data["goal"]}
    >>> method, sgd = GradientDescent(name="gradient_descent", lr=0.5), Sgd(name="sgd")
    >>> server = method.init_server({"theta": torch.zeros(1)}, sgd)
    >>> client = method.init_client(server["shared"], {})
    >>> step = method.client(Parabola(), method.downlink(server, 0), client, {"goal": torch.ones(1)}, {})
    >>> method.server(server, step.uplink, sgd, 0)
    {'shared': {'theta': tensor([0.5000])}}
    """

    splits: ClassVar[Splits] = "any"
    """Which splits into shared and local parameters it is made for; others are refused."""

    instead: ClassVar[str] = ""
    """Methods for other splits, named where one is refused."""

    needs_rounds: ClassVar[str] = "its server step is defined for the aggregate of a cohort"
    """Why it cannot run asynchronously; "" when it can: the server takes single uplinks, gradients or changes of θ,
    computed at an older θ, and nothing else that the server or a client keeps belongs to a round."""

    needs_mean: ClassVar[str] = ""
    """Why another rule than the mean would lead it to a wrong place; "" when it may have any."""

    needs_whole_gradients: ClassVar[str] = ""
    """Why gradients of bounded norm (`problem.training.clip_norm`) would make another method of it; "" where not."""

    least_cohort: ClassVar[int] = 1
    """Clients of a cohort without which it is not defined."""

    needs_honesty: ClassVar[str] = ""
    """Why no client can be strategic; "" when it can: it sends gradients or changes of one round, and none again."""

    needs_whole_uplinks: ClassVar[str] = ""
    """Why what clients send cannot be compressed; "" when it can: gradients or changes of θ, of which a part, or one
    that comes a round later, is still a direction."""

    server_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings that `server` and `resolve` alone look at: clients do the same whatever they are."""

    branches_on_server: ClassVar[bool] = False
    """True when what `downlink`, `uplink_like` or `view` return depends on values of the server's state, such as coins:
    runs then differ in what they send in the same round, and cannot be computed together."""

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

    def downlink(self, server: State, round: int, client: int | None = None) -> Params | None:
        """Return what the server sends to every client of the cohort, which is asked first and without a `client`.

        A method that sends each client its own returns None then, in all rounds, and is asked for every client; names
        and shapes may depend on round and client, and on nothing else.
        """
        return server["shared"]

    def coordinate_weights(self, server: State, round: int, client: int) -> Params | None:
        """Return weights v_m ≥ 0 for the coordinates of one client's uplink, of its names and shapes; None is 1.

        The mean is then Σ_m n_m v_m x_m / Σ_m n_m v_m, coordinate by coordinate, and 0 where no client has a weight.
        Server and client know them both, so that coordinates of weight 0 are not sent. For methods in rounds that take
        the mean alone (`needs_mean`); of a round either all clients have such weights or none.
        """
        return None

    def sent_weights(self) -> Mapping[str, str]:
        """Return, of tensors of the uplink that clients weigh themselves, the name of the tensor that has the weights.

        That one goes up with them: v_m ≥ 0 of a shape (L, …) that the weighed tensors begin with, for what a client has
        learned, which nobody else could compute. Their mean is Σ_m n_m v_m x_m / Σ_m n_m v_m, and 0 where no client has
        a weight; that of the weights themselves is the plain one. Under the conditions of `coordinate_weights`.
        """
        return {}

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return random inputs of one call of `client`."""
        return {}

    def uplink_like(self, server: State) -> Params:
        """Return tensors with the names and shapes of an uplink; values do not matter."""
        return server["shared"]

    def uplink_bytes(self, like: Params) -> int:
        """Return the bytes of an uplink of these names and shapes, of coordinates that all have a weight."""
        return num_bytes(like)

    @abstractmethod
    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return uplink, new state and report of one client."""

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

    def under_plain_mean(self) -> Algorithm:
        """Return this method for runs in which every aggregate is the mean over all clients, attackers on data among
        them: it may leave unsent what follows from that."""
        return self

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Algorithm:
        """Return this method with `theory` step sizes filled in.

        participation: clients of a cohort over all that have samples; 1 when all of them take part in every round.
        Raises ValueError, beginning with the key, for steps that must diverge (naming the legal bound) and for a server
        optimizer that it has no use for. The split has been checked.
        """
        return self
