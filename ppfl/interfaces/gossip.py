"""Methods without a server: clients are nodes of a graph, and each of them hears of its neighbours alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from ppfl.core.plugins import ChosenFrom, Settings
from ppfl.interfaces.graph import Graph
from ppfl.interfaces.personal_aggregates import PersonalAggregates

if TYPE_CHECKING:
    from ppfl.core.types import Params, State
    from ppfl.interfaces.graph import Weights


CONSENSUS = "consensus"
"""The series Σ_i ‖x_i − x̄‖²."""


class Gossip(PersonalAggregates):
    """Node i receives Σ_j w_ij y_j of what its neighbours and itself have sent, added in the order of j.

    w_ij are the weights of the graph of the section `gossip`; all nodes take part in each round, which is one call of
    `client` and one exchange of all that it sends. What goes over an edge is the uplink, and y what `decode` makes of
    it. There is no server: the parameters that a run is scored by, and that it leaves behind, are x̄ = mean of the x_i
    (`model`), found when scores are due and for nobody else, together with how far nodes are apart.

    A method says what a node sends, and what it does with the sum:

    >>> from typing import Literal
    >>> import torch
    >>> from ppfl.interfaces.gossip import Gossip
    >>> from ppfl.interfaces.method import ClientStep
    >>> class Averaging(Gossip):
    ...     name: Literal["averaging"]
    ...
    ...     def init_client(self, shared, local):
    ...         return {"local": local, "model": shared}
    ...
    ...     def client(self, objective, message, state, data, draws):
    ...         return ClientStep(state["model"], state)
    ...
    ...     def receive(self, state, own):
    ...         return {**state, "model": own}
    >>> method, state = Averaging(name="averaging"), {"local": {}, "model": {"theta": torch.ones(1)}}
    >>> sent = method.client(None, {}, state, {}, {}).uplink
    >>> own = {"theta": 0.75 * method.decode(sent, sent)["theta"] + 0.25 * torch.tensor([5.0])}
    >>> method.model(method.receive(state, own))
    {'theta': tensor([2.])}
    """

    needs_rounds: ClassVar[str] = "its nodes wait for their neighbours in each round, and no server takes anything"
    needs_all_uplinks: ClassVar[str] = "each node waits for all of its neighbours, and adds up what all have sent"
    needs_whole_uplinks: ClassVar[str] = "nodes send by the compressor of their method, where it has one"
    needs_mean: ClassVar[str] = "each node adds up what its neighbours send by the weights of the graph"
    needs_honesty: ClassVar[str] = "no server asks its nodes for reports, and what they send corrects what they sent"

    def downlink(self, server: State, round: int, client: int | None = None) -> Params:
        """Return nothing: there is no server."""
        return {}

    def decode(self, sent: Params, shared: Params) -> Params:
        """Return y of what one node has sent, in the names, shapes and number types that `receive` gets.

        shared: of the names, shapes and number types of θ; its values do not matter.
        """
        return sent

    def model(self, state: State) -> Params:
        """Return x_i."""
        return state["model"]


class Neighbourhood(Settings):
    """The section `gossip`: which clients are neighbours, and how much they count for each other."""

    graph: Annotated[Graph, ChosenFrom("ppfl.graphs")]
    """Who is whose neighbour; clients are its nodes, in their order."""

    def weights(self, num_nodes: int, seed: int) -> Weights:
        """Return W. Raises ValueError, beginning with the key below `gossip.`, for a graph that is not for so many."""
        return self.graph.weights(num_nodes, seed)
