"""For each node the weighted sum of what its neighbours send; messages cross ranks once, as the bytes that they are.

A rank holds the vectors of its own nodes, one message of each node of another rank that one of them has for a
neighbour, and one message decoded: never N×D, unless everybody is everybody's neighbour.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from ppfl.core import devices
from ppfl.core.params import num_bytes
from ppfl.engine.exchange.exchanged import Exchanged
from ppfl.engine.exchange.sent import Sent
from ppfl.engine.mapping.mapping import NOT_FOR_SEVERAL, Uplink, UplinkRows
from ppfl.interfaces.gossip import Gossip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ppfl.core.types import Params, State
    from ppfl.engine.group import ClientGroup
    from ppfl.engine.mapping.mapping import AnyUplink
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.graph import Weights


_FEW = 1 << 20
"""Numbers of all decoded messages of a rank that may be there at once: 8 MB."""


class Term(NamedTuple):
    """The k-th term of the sums of several nodes."""

    rows: torch.Tensor | None
    """Of this rank, the nodes that have so many terms, (R,); None: all of them."""
    senders: torch.Tensor
    """Places of those that they hear of, among all whose messages are there, (R,)."""
    weights: torch.Tensor
    """w_ij, (R,)."""

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Return w_ij y_j, (R, …), of what all have sent."""
        chosen = values.index_select(0, self.senders)
        return self.weights.to(values.dtype).reshape(-1, *[1] * (chosen.ndim - 1)) * chosen


class Neighbours:
    """Who sends what to whom, on this rank; made once a run. Collective."""

    def __init__(self, setup: Setup) -> None:
        assert setup.weights_of_graph is not None
        self.weights: Weights = setup.weights_of_graph
        self._setup = setup
        self.nodes = setup.problem.client_data.clients
        """Of this rank."""
        self._terms: list[Term] = []
        ranks = _ranks_of_nodes(setup)
        self.outgoing: dict[int, list[int]] = {}
        """Of each rank with neighbours of this one's nodes, ascending: those nodes of this rank, ascending."""
        incoming: dict[int, set[int]] = {}
        for node in self.nodes:
            for rank in {ranks[other] for other in self.weights.neighbours(node)} - {setup.communicator.rank}:
                self.outgoing.setdefault(rank, []).append(node)
            for other in self.weights.neighbours(node):
                if other not in self.nodes:
                    incoming.setdefault(ranks[other], set()).add(other)
        # W is symmetric, so that a rank hears of those that it sends to
        self.outgoing = {rank: self.outgoing[rank] for rank in sorted(self.outgoing)}
        self.incoming = {rank: sorted(incoming[rank]) for rank in self.outgoing}
        """Of each of these ranks: the nodes that it sends the messages of, ascending."""
        self._exchange = setup.communicator.neighbourhood(list(self.outgoing))

    def terms(self, known: frozenset[int]) -> list[Term]:
        """Return the sums of this rank's nodes term by term, given whose messages there are: this rank's and theirs."""
        if not self._terms:
            # neighbours never change, and neither does whose messages are there
            place = {node: number for number, node in enumerate(sorted(known))}
            rows = [self.weights.rows[node] for node in self.nodes]
            for number in range(max(map(len, rows))):
                having = [row for row, terms in enumerate(rows) if len(terms) > number]
                nodes, weights = zip(*(rows[row][number] for row in having), strict=True)
                self._terms.append(Term(
                    None if len(having) == len(rows) else torch.tensor(having),
                    torch.tensor([place[node] for node in nodes]),
                    torch.tensor(weights, dtype=torch.float64),
                ))  # fmt: skip
        return self._terms

    @cached_property
    def edges_of_rank(self) -> int:
        """Pairs of a node of this rank and a neighbour of it, wherever that is."""
        return sum(len(self.weights.neighbours(node)) for node in self.nodes)

    def received(self, sent: dict[int, Params], like: Params) -> dict[int, Params]:
        """Return the messages of the neighbours that live on other ranks. Collective."""
        if self._setup.communicator.size == 1:
            return {}
        size, device = num_bytes(like), next(iter(like.values())).device
        nodes = [node for nodes in self.outgoing.values() for node in nodes]
        packed = {node: _packed(sent[node]) for node in set(nodes)}
        buffer = torch.cat([packed[node] for node in nodes]) if nodes else torch.empty(0, dtype=torch.uint8)
        counts = [size * len(nodes) for nodes in self.outgoing.values()]
        expected = [size * len(nodes) for nodes in self.incoming.values()]
        came = self._exchange(buffer, counts, expected)
        senders = [node for nodes in self.incoming.values() for node in nodes]
        pieces = torch.split(came, size) if senders else []
        return {node: _unpacked(piece, like, device) for node, piece in zip(senders, pieces, strict=True)}


def gossip(
    setup: Setup, group: ClientGroup, neighbours: Neighbours, server: State, uplinks: Iterable[AnyUplink],
    cohort: frozenset[int], round: int,
) -> Exchanged:  # fmt: skip
    """Let each node of this rank receive Σ_j w_ij y_j, j ascending. Collective.

    Whether numbers are finite is not asked: nobody knows that of all, and it is seen when scores are due.
    """
    method = setup.algorithm_at(round)
    assert isinstance(method, Gossip)
    like = method.uplink_like(server)
    sent: dict[int, Params] = {}
    for uplink in Sent(method, server, uplinks, cohort, like, round):
        assert isinstance(uplink, Uplink | UplinkRows)
        for one in uplink.one_by_one() if isinstance(uplink, UplinkRows) else [uplink]:
            # in the order of names that all ranks know
            sent[one.client] = {name: one.params[name] for name in like}
    if like:
        messages = {**sent, **neighbours.received(sent, like)}
        decode = partial(method.decode, shared=server["shared"])
        if (rows := _at_once(decode, neighbours, messages, server["shared"])) is not None:
            group.receive_rows(rows, round)
        else:
            group.receive_each(_one_by_one(decode, neighbours, messages), round)
    return Exchanged(True, 0, neighbours.edges_of_rank * num_bytes(like), 0)


def _one_by_one(
    decode: Callable[[Params], Params], neighbours: Neighbours, messages: dict[int, Params]
) -> dict[int, Params]:
    """Return Σ_j w_ij y_j of the nodes of this rank."""
    totals: dict[int, Params] = {}
    # in the order of nodes, so that the bits are those of any number of ranks
    for node in sorted(messages):
        decoded = decode(messages[node])
        for other, weight in neighbours.weights.rows[node]:
            if other in neighbours.nodes:
                terms = {name: weight * value for name, value in decoded.items()}
                before = totals.get(other)
                totals[other] = terms if before is None else {name: before[name] + terms[name] for name in terms}
    return totals


def _at_once(
    decode: Callable[[Params], Params], neighbours: Neighbours, messages: dict[int, Params], shared: Params
) -> Params | None:
    """Return the same bits as rows (C, …), where calls are what takes time: few numbers on the host. Else None."""
    size = sum(value.numel() for value in shared.values())
    if len(messages) * size > _FEW or not devices.is_host(next(iter(shared.values())).device):
        return None
    first, *others = neighbours.terms(frozenset(messages))
    in_order = [messages[node] for node in sorted(messages)]
    try:
        stacked = {name: torch.stack([message[name] for message in in_order]) for name in in_order[0]}
        decoded = torch.func.vmap(decode)(stacked)
    except NOT_FOR_SEVERAL:  # a mistake is raised one by one, too
        return None
    totals = {}
    for name, values in decoded.items():
        total = first.of(values)
        for term in others:
            if term.rows is None:
                total = total + term.of(values)
            else:
                total[term.rows] = total[term.rows] + term.of(values)
        totals[name] = total
    return totals


def _packed(message: Params) -> torch.Tensor:
    """Return a message as bytes, on the host."""
    return torch.cat([value.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for value in message.values()])


def _unpacked(packed: torch.Tensor, like: Params, device: torch.device) -> Params:
    pieces = torch.split(packed, [value.numel() * value.element_size() for value in like.values()])
    return {
        # in memory of its own, which begins where numbers may
        name: piece.clone().view(value.dtype).reshape(value.shape).to(device)
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }


def _ranks_of_nodes(setup: Setup) -> list[int]:
    """Return the rank of every node. Collective."""
    mine = torch.tensor([len(setup.problem.client_data.clients)])
    counts: list[int] = setup.communicator.allgather_rows(mine).tolist()
    return [rank for rank, count in enumerate(counts) for _ in range(count)]
