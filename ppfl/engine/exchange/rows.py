"""A row a client, for attackers and for rules that look at each of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ppfl.core.agree import SharedUserError
from ppfl.core.params import flatten
from ppfl.engine.exchange.attackers import attack, hostile_rows, name_of_row
from ppfl.engine.mapping.mapping import UplinkRows
from ppfl.interfaces.aggregator import NotFiniteError, TooFewVectorsError
from ppfl.interfaces.pre_aggregator import RandomKey
from ppfl.rows.client_matrix import ClientMatrix
from ppfl.rows.device_slices import as_matrix

if TYPE_CHECKING:
    from ppfl.core.types import Params
    from ppfl.engine.exchange.sent import Sent
    from ppfl.engine.mapping.mapping import AnyUplink
    from ppfl.engine.setup import Setup


def by_rule(
    setup: Setup, uplinks: Sent, cohort: list[int], like: Params, round: int, query: int | None = None
) -> tuple[torch.Tensor, int]:
    """Return the aggregate of all rows, those of attackers included, (D,), and how many of them are not finite.

    NaN where they cannot be aggregated, since the honest clients have diverged. Collective.
    """
    if uplinks.is_weighed or uplinks.weights_of:
        raise SharedUserError(
            f"algorithm.name: {setup.algorithm.name!r} weighs coordinates, of which the mean alone can be taken: "
            f"no other aggregator than 'mean', and no attackers on vectors"
        )
    return of_matrix(setup, _rows(setup, uplinks, cohort, like), cohort, flatten(like), round, query)


def of_matrix(
    setup: Setup, sent: ClientMatrix, senders: list[int], like: torch.Tensor, step: int, query: int | None = None
) -> tuple[torch.Tensor, int]:
    """Return what attackers and the rule make of rows, (D,), and how many of them are not finite. Collective.

    senders: the client of each row. step: the round, or of asynchronous runs the step of the server, by which all that
    is random is keyed, and by the query point that they are sent for, where there is one.
    """
    key = RandomKey(setup.problem.objective.seed, step, query)
    matrix = attack(setup, sent, senders, key)
    vector = torch.full_like(like, math.nan)
    try:
        vector = setup.aggregator(matrix, key)
    except NotFiniteError as error:
        hostile = hostile_rows(setup, senders)
        if all(hostile[row] for row in error.rows):
            names = ", ".join(name_of_row(setup, senders, row) for row in error.rows)
            what = "round" if setup.asynchronous is None else "server step"
            raise SharedUserError(
                f"{what} {step + 1}: NaN or inf from {names}, which the mean does not survive; "
                f"use another aggregator than 'mean', or something before it"
            ) from error
    except TooFewVectorsError:
        pass
    # now, since the rule has found it out with what it looked at
    return vector, int((~matrix.finite()).sum())


def rows_of_cohort(setup: Setup, uplinks: Sent, cohort: list[int], like: Params, round: int) -> ClientMatrix:
    """Return what the clients of a cohort send, as attackers have changed it: a row each, then those of attackers
    beside them. Collective."""
    key = RandomKey(setup.problem.objective.seed, round)
    return attack(setup, _rows(setup, uplinks, cohort, like), cohort, key)


def _rows(setup: Setup, uplinks: Sent, cohort: list[int], like: Params) -> ClientMatrix:
    blocks = (_rows_of(uplink) for uplink in uplinks)
    num_rows = sum(client in setup.problem.client_data.clients for client in cohort)
    return ClientMatrix.from_stream(setup.communicator, blocks, num_rows, flatten(like), setup.bucket_bytes)


def _rows_of(uplink: AnyUplink) -> torch.Tensor:
    """Return a row a client, (K, D)."""
    if isinstance(uplink, UplinkRows):
        number = len(uplink.clients)
        return torch.cat([as_matrix(value, number) for value in uplink.params.values()], dim=1)
    return flatten(uplink.params).unsqueeze(0)
