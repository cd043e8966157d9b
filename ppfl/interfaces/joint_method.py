"""Methods that can add up what several clients send without computing it one by one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppfl.interfaces.method import Algorithm

if TYPE_CHECKING:
    import torch

    from ppfl.core.types import Draws, Params, State
    from ppfl.interfaces.client_data import Joined
    from ppfl.interfaces.method import Report
    from ppfl.interfaces.objective import JointObjective


@dataclass(frozen=True)
class JointStep:
    """What one call gives for K clients, none of whose uplinks is computed by itself."""

    total: Params
    """Σ_k v_k uplink_k."""
    states: State
    """Their next ones, (K, …)."""
    report: Report
    """Numbers are those of every client, tensors (K,) have one for each."""


class JointAlgorithm(Algorithm):
    """A method that can also add up what several clients send, and compute none of these uplinks by itself.

    Beside `client` it says how. The sum is taken where nobody asks for single uplinks and the objective has a
    joint pass:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.joint_method import JointAlgorithm, JointStep
    >>> from ppfl.interfaces.method import ClientStep
    >>> class GradientDescent(JointAlgorithm):
    ...     name: Literal["gradient_descent"]
    ...
    ...     def client(self, objective, message, state, data, draws):
    ...         return ClientStep(objective.shared_gradient(message, state["local"], data), state)
    ...
    ...     def client_sum(self, objective, message, states, joined, draws, weights):
    ...         once = objective.joint_pass(message, joined)
    ...         return JointStep(once.shared_gradient(states["local"], weights), states, {"shared_gradients": 1.0})
    ...
    ...     def server(self, state, aggregate, optimizer, round):
    ...         return optimizer.step(state, aggregate, lr=1.0)
    >>> class Parabolas:  # all of an objective that this one asks for
    ...     def joint_pass(self, shared, joined):
    ...         self.shared, self.goals = shared, joined.data["goal"]
    ...         return self
    ...     def shared_gradient(self, tuned, weights):
    ...         return {"theta": weights @ (self.shared["theta"] - self.goals)}
    >>> from ppfl.interfaces.client_data import Joined
    >>> method, joined = GradientDescent(name="gradient_descent"), Joined({"goal": torch.tensor([1.0, 0.0])}, [1, 1])
    >>> weights = torch.tensor([2.0, 1.0])
    >>> method.client_sum(Parabolas(), {"theta": torch.tensor([3.0])}, {"local": {}}, joined, {}, weights).total
    {'theta': tensor(7.)}
    """

    @abstractmethod
    def client_sum(
        self, objective: JointObjective, message: Params, states: State, joined: Joined, draws: Draws,
        weights: torch.Tensor,
    ) -> JointStep:  # fmt: skip
        """Return Σ_k v_k uplink_k, new states and reports of K clients.

        States and draws are (K, …), v (K,). Raises UnequalClientsError where clients of different S cannot be computed
        together; they are asked for again in groups then.
        """
