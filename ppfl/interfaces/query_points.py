"""Methods in which clients ask all others for gradients where they themselves are: at n query points a round."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt

from ppfl.core.plugins import Resolved
from ppfl.interfaces.personal_aggregates import PersonalAggregates

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ClientStep
    from ppfl.interfaces.objective import Objective


FEWEST_HONEST = 2
"""Clients without which answers at a query point are those of attackers and of one client, which may be the main one
itself."""


class QueryPoints(PersonalAggregates):
    """R_i ← aggregate of what the clients of the cohort answer at θ_i, for each main client i;  i receives R_i.

    A round: every main client of the cohort publishes θ_i as it is before the round, and all of the cohort, attackers
    among them, answer there (`answer`), which changes nobody's state. Then each of the cohort takes a step of its own
    (`client`), and main ones receive what the aggregator makes of the answers (`receive`). θ_i has the names of the
    shared parameters and is all that is published; w_i stays with its client. A client answers with the same draws at
    all query points of a round, which leaves the law of each θ_i what it would be with others. Clients that are not
    main only answer, and step by themselves; scores are means over the main ones.

    A method says where its clients are, and what others answer there:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.core.params import add_scaled
    >>> from ppfl.interfaces.method import ClientStep
    >>> from ppfl.interfaces.query_points import QueryPoints
    >>> class Asking(QueryPoints):
    ...     name: Literal["asking"]
    ...
    ...     def query(self, state):
    ...         return state["personal"]
    ...
    ...     def answer(self, objective, message, state, data, draws):
    ...         return ClientStep(objective.shared_gradient(message, state["local"], data), state)
    ...
    ...     def client(self, objective, message, state, data, draws):
    ...         return ClientStep({}, state)
    ...
    ...     def receive(self, state, own):
    ...         return {**state, "personal": add_scaled(state["personal"], own, -1.0)}
    >>> method = Asking(name="asking", main_clients=1).chosen(("a", "b"), (4, 4), byzantine={0})
    >>> method.mains
    (1,)
    >>> method.receive({"local": {}, "personal": {"theta": torch.ones(1)}}, {"theta": torch.tensor([0.5])})
    {'local': {}, 'personal': {'theta': tensor([0.5000])}}
    """

    needs_all_uplinks: ClassVar[str] = "each client is asked many times a round, and has to answer all"
    needs_honesty: ClassVar[str] = "they answer at many query points a round, and no one message is what they report"
    main_clients: Literal["all"] | PositiveInt | Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = "all"
    """Who asks: all honest clients, so many of them (the first ones with training samples), or those of these names."""
    mains: Resolved[tuple[int, ...]] = ()
    """Their numbers, ascending."""

    @property
    def asks(self) -> bool:
        """Say whether anybody wants to know R_i at all."""
        return True

    @abstractmethod
    def query(self, state: State) -> Params:
        """Return θ_i, which everybody is told."""

    @abstractmethod
    def answer(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return what a client sends that is asked at a query point, `message`; its state stays what it was."""

    def answer_draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return random inputs of one call of `answer`."""
        return {}

    def uplink_like(self, server: State) -> Params:
        """Return nothing: what clients send they send as answers, like θ."""
        return {}

    def chosen(self, client_names: Sequence[str], num_train_samples: Sequence[int], byzantine: Collection[int]) -> Self:
        """Return this method with its main clients found. Raises ValueError, beginning with the key, where there are
        none such."""
        # by number, so that all ranks find the same ones without a message
        able = [m for m, samples in enumerate(num_train_samples) if samples > 0 and m not in byzantine]
        if isinstance(self.main_clients, int):
            if self.main_clients > len(able):
                raise ValueError(
                    f"main_clients: {self.main_clients} of {len(able)} honest clients with training samples; "
                    f"at most {len(able)}, or all"
                )
            able = able[: self.main_clients]
        elif self.main_clients != "all":
            unfit = sorted(set(self.main_clients) - {client_names[m] for m in able})
            if unfit:
                raise ValueError(f"main_clients: no honest client with training samples is called {', '.join(unfit)}")
            able = [m for m in able if client_names[m] in self.main_clients]
        return self.model_copy(update={"mains": tuple(able)})
