"""Methods whose clients each get an aggregate of their own, instead of one that the server keeps."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from ppfl.interfaces.method import Algorithm

if TYPE_CHECKING:
    from ppfl.core.types import Params, State
    from ppfl.interfaces.method import ServerOptimizer


class PersonalAggregates(Algorithm):
    """θ̂_m ← the aggregate of client m, kept in the state of that client; the server's θ stays the common start θ_0.

    What becomes of the uplinks is said by the kind of method that extends it, and done by the exchange of that kind.
    What `downlink` gives, clients have known since before the first round, so that it is not counted: what each
    receives is.

    A method says what a client does with what it gets:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.core.params import add_scaled
    >>> from ppfl.interfaces.method import ClientStep
    >>> from ppfl.interfaces.personal_aggregates import PersonalAggregates
    >>> class Neighbours(PersonalAggregates):
    ...     name: Literal["neighbours"]
    ...     lr: float
    ...
    ...     def client(self, objective, message, state, data, draws):
    ...         return ClientStep(objective.shared_gradient(state["own"], state["local"], data), state)
    ...
    ...     def receive(self, state, own):
    ...         return {**state, "own": add_scaled(state["own"], own, -self.lr)}
    >>> method, state = Neighbours(name="neighbours", lr=0.5), {"local": {}, "own": {"theta": torch.ones(1)}}
    >>> method.receive(state, {"theta": torch.tensor([2.0])})
    {'local': {}, 'own': {'theta': tensor([0.])}}
    """

    needs_rounds: ClassVar[str] = "each client gets an aggregate of its own, made of what a cohort sends in a round"
    needs_whole_uplinks: ClassVar[str] = "each client gets an aggregate of its own, and what it sends has it inside"

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """Return θ_0 as it is; no engine asks."""
        return state

    @abstractmethod
    def receive(self, state: State, own: Params) -> State:
        """Return the next state of one client, given its own aggregate; called on its rank, after the exchange."""


def goes_with_others(algorithm: Algorithm | type[Algorithm]) -> bool:
    """Say whether several runs of a method can be computed together: they send alike, and one mean a run is taken."""
    kind = algorithm if isinstance(algorithm, type) else type(algorithm)
    return not kind.branches_on_server and not issubclass(kind, PersonalAggregates)
