"""What becomes of query points: each is told to all ranks, and what clients answer there goes through attackers and the
rule. One query point at a time, so that a rank holds its columns of N answers and never of n·N."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import torch

from ppfl.core.communicator import LocalParameterError
from ppfl.core.params import all_finite, flatten, num_bytes, unflatten
from ppfl.engine.answers import Answers
from ppfl.engine.exchange.combine import combine
from ppfl.engine.exchange.exchanged import Exchanged
from ppfl.engine.participants import Downlink
from ppfl.interfaces.query_points import FEWEST_HONEST, QueryPoints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ppfl.core.types import Params, State
    from ppfl.engine.group import ClientGroup
    from ppfl.engine.mapping.mapping import AnyUplink
    from ppfl.engine.participants import CohortSampler, Roles
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.method import Algorithm


def check_query_points(algorithm: Algorithm, roles: Roles, cohort: CohortSampler) -> None:
    """Raise ValueError, beginning with the key, when fewer than two honest clients may answer at a query point."""
    if not isinstance(algorithm, QueryPoints) or not algorithm.asks:
        return
    hostile = len(roles.byzantine.intersection(cohort.eligible))
    if cohort.size - hostile < FEWEST_HONEST:
        raise ValueError(
            f"cohort: {cohort.size} clients a round, of which {hostile} may be Byzantine; with query points at least "
            f"{hostile + FEWEST_HONEST}, since two honest clients have to answer"
        )


def ask(
    setup: Setup, group: ClientGroup, server: State, cohort: frozenset[int], round: int,
    counted: Callable[[Iterable[AnyUplink]], Iterator[AnyUplink]],
) -> Exchanged:  # fmt: skip
    """θ_i ← what the method makes of R_i and of client i's own step, for each main client i of the cohort. Collective.

    counted: notes what each call of a client has cost. Where some R_i has NaN or inf nobody takes a step.
    """
    method = setup.algorithm_at(round)
    assert isinstance(method, QueryPoints)
    own: dict[int, Params] = {}
    num_nonfinite = downlink_bytes = uplink_bytes = 0
    like, mine = server["shared"], [client for client in cohort if client in group.clients]
    mains = [client for client in method.mains if client in cohort] if method.asks and like else []
    stops = _stops(setup)
    for client in mains:
        query = _published(setup, group, method, client, like, bisect_right(stops, client))
        uplinks = counted(
            group.ask(Downlink(Answers(name="answers", of=method), {"shared": query}, round), cohort, round)
        )
        answered = combine(setup, server, uplinks, cohort, like, round, query=client)
        if not all_finite(answered.params):
            return Exchanged(False, downlink_bytes, uplink_bytes, num_nonfinite + answered.num_nonfinite)
        num_nonfinite += answered.num_nonfinite
        downlink_bytes += len(mine) * num_bytes(like)
        uplink_bytes += answered.num_bytes
        if client in group.clients:
            own[client] = answered.params
    # own steps come after all answers, which are given with every w_j as it was before the round
    for _ in counted(group.step(Downlink(setup.algorithm, server, round), cohort, round)):
        pass
    group.receive_each(own, round)
    of_own = len(own) * num_bytes(like)
    return Exchanged(True, downlink_bytes + of_own, uplink_bytes + of_own, num_nonfinite)


def _published(setup: Setup, group: ClientGroup, method: QueryPoints, client: int, like: Params, owner: int) -> Params:
    """Return θ_i of a client on every rank. Collective.

    Raises LocalParameterError where it has other names than the shared parameters, or memory of local ones.
    """
    # every rank has to come to the broadcast below; the owner alone knows where its client is
    if setup.communicator.rank != owner:
        vector = torch.empty_like(flatten(like))
    else:
        state = group.state(client)
        query = method.query(state)
        # 0 is no address: tensors without memory would all share it
        private = {value.untyped_storage().data_ptr() for value in state["local"].values() if value.numel()} - {0}
        shares = any(value.untyped_storage().data_ptr() in private for value in query.values())
        if shares or query.keys() != like.keys():
            raise LocalParameterError(
                f"the query point of {method.name} has {', '.join(query)}; only {', '.join(like)} may leave a client, "
                "in memory that none of its local parameters has"
            )
        # a method may name them in another order, which others do not know
        vector = flatten({name: query[name] for name in like})
    told = setup.communicator.broadcast(vector.cpu(), owner) if setup.communicator.size > 1 else vector
    return unflatten(told.to(vector.device), like)


def _stops(setup: Setup) -> list[int]:
    """Return the first client behind those of each rank. Collective."""
    stop = torch.tensor([setup.problem.client_data.clients.stop])
    stops: list[int] = setup.communicator.allgather_rows(stop).tolist()
    return stops
