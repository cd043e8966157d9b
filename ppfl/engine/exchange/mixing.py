"""For each client of a cohort a mean of its own over what all of them sent: N×N weights on N×D, column by column.

No rank holds more than its columns of the N vectors, and rows of its own clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.params import num_bytes, unflatten
from ppfl.engine.exchange.attackers import hostile_rows
from ppfl.engine.exchange.exchanged import Exchanged
from ppfl.engine.exchange.rows import rows_of_cohort
from ppfl.engine.exchange.sent import Sent
from ppfl.interfaces.mixing import MIXING, Mixing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ppfl.core.types import Params, State
    from ppfl.engine.group import ClientGroup
    from ppfl.engine.mapping.mapping import AnyUplink
    from ppfl.engine.setup import Setup
    from ppfl.engine.told import Told
    from ppfl.rows.client_matrix import ClientMatrix


def mix(
    setup: Setup, group: ClientGroup, told: Told, server: State, uplinks: Iterable[AnyUplink],
    cohort: frozenset[int], like: Params, round: int,
) -> Exchanged:  # fmt: skip
    """x̂_i ← Σ_j W_ij x_j for each client i of the cohort, which receives it. Collective.

    Vectors of attackers with NaN or inf are left out, and who sent one receives nothing; those of honest clients mean
    that the run has diverged, and nobody receives anything.
    """
    method = setup.algorithm_at(round)
    assert isinstance(method, Mixing)
    sent, members = Sent(method, server, uplinks, cohort, like, round), sorted(cohort)
    if not like:  # everything is local: the clients work, and nothing is sent
        for _ in sent:
            pass
        return Exchanged(True, 0, 0, 0)
    matrix = rows_of_cohort(setup, sent, members, like, round)
    rows = _usable(setup, matrix, members)
    num_left_out = matrix.num_vectors - len(rows)
    if not rows:
        return Exchanged(False, 0, sent.num_bytes, int((~matrix.finite()).sum()))
    # what follows is the same on every rank: N×N products come from the exchange, and nothing is drawn
    chosen = matrix.select(torch.tensor(rows)) if num_left_out else matrix
    mixing = method.mixing(chosen.inner_products(), _weights(setup, members, matrix.num_vectors)[rows])
    clients = [members[row] for row in rows if row < len(members)]
    # attackers beside the clients come last
    told.note_pairs(MIXING, clients, mixing[: len(clients), : len(clients)])
    mine = [client for client in clients if client in group.clients]
    own = chosen.mix(mixing[: len(clients)]).to_rows(len(mine))
    group.receive_each({client: unflatten(row, like) for client, row in zip(mine, own, strict=True)}, round)
    return Exchanged(True, len(mine) * num_bytes(like), sent.num_bytes, num_left_out)


def _usable(setup: Setup, matrix: ClientMatrix, members: list[int]) -> list[int]:
    """Return the rows without NaN and inf; none where an honest client has sent such. Collective."""
    if matrix.if_finite(matrix.inner_products) is not None:
        return list(range(matrix.num_vectors))
    finite = matrix.finite().tolist()
    hostile = hostile_rows(setup, members)
    if any(not is_finite and not is_hostile for is_finite, is_hostile in zip(finite, hostile, strict=True)):
        return []
    return [row for row, is_finite in enumerate(finite) if is_finite]


def _weights(setup: Setup, members: list[int], num_vectors: int) -> torch.Tensor:
    """Return the weights of all vectors in a mean, (N,); attackers have one vote each."""
    of_clients = [setup.client_weights[client] for client in members]
    return torch.tensor(of_clients + [1.0] * (num_vectors - len(members)), dtype=torch.float64)
