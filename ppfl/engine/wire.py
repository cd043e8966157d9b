"""How many bytes clients are sent and send: found from names and shapes, so that all ranks know it of all clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.params import num_bytes
from ppfl.engine.participants import Downlink
from ppfl.interfaces.links import Sizes
from ppfl.interfaces.personal_aggregates import PersonalAggregates
from ppfl.interfaces.pruning import Pruned
from ppfl.interfaces.query_points import QueryPoints

if TYPE_CHECKING:
    from collections.abc import Collection

    from ppfl.core.types import Params, State
    from ppfl.interfaces.method import Algorithm


def sizes_of(algorithm: Algorithm, server: State, cohort: Collection[int], round: int) -> dict[int, Sizes]:
    """Return what the clients of a cohort are sent and send in a round, in bytes; of all ranks."""
    if isinstance(algorithm, QueryPoints):
        return _sizes_of_answers(algorithm, num_bytes(server["shared"]), cohort)
    like = algorithm.uplink_like(server)
    if isinstance(algorithm, PersonalAggregates):
        return {client: Sizes(num_bytes(like), algorithm.uplink_bytes(like)) for client in sorted(cohort)}
    downlink = Downlink(algorithm, server, round)
    return {
        client: Sizes(num_bytes(downlink.to(client)), uplink_bytes(algorithm, server, like, client, round))
        for client in sorted(cohort)
    }


def answers_after(algorithm: Algorithm) -> bool:
    """Say whether clients are sent what they are sent after the server has heard all: aggregates of their own."""
    return isinstance(algorithm, PersonalAggregates) and not isinstance(algorithm, QueryPoints)


def uplink_bytes(algorithm: Algorithm, server: State, like: Params, client: int, round: int) -> int:
    """Return the size of what one client sends: of what has weights, of the coordinates that have one."""
    element_sizes = {name: value.element_size() for name, value in like.items()}
    if isinstance(algorithm, Pruned) and len(set(element_sizes.values())) == 1:
        # they all have one size: how many are kept is known without looking for the largest of them
        return algorithm.kept[client] * next(iter(element_sizes.values()))
    weights = algorithm.coordinate_weights(server, round, client) if like else None
    if weights is None:
        return algorithm.uplink_bytes(like)
    return sum(element_sizes[name] * int(torch.count_nonzero(value)) for name, value in weights.items())


def _sizes_of_answers(algorithm: QueryPoints, shared_bytes: int, cohort: Collection[int]) -> dict[int, Sizes]:
    """Everybody is sent every query point and answers there; a main client publishes its own and is sent R_i."""
    mains = {client for client in algorithm.mains if client in cohort} if algorithm.asks else set()
    counts = {client: len(mains) + (client in mains) for client in sorted(cohort)}
    return {client: Sizes(count * shared_bytes, count * shared_bytes) for client, count in counts.items()}
