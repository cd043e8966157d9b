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


def by_rule(setup: Setup, uplinks: Sent, cohort: list[int], like: Params, round: int) -> tuple[torch.Tensor, int]:
    """Return the aggregate of all rows, those of attackers included, (D,), and how many of them are not finite.

    NaN where they cannot be aggregated, since the honest clients have diverged. Collective.
    """
    if uplinks.is_weighed or uplinks.weights_of:
        raise SharedUserError(
            f"algorithm.name: {setup.algorithm.name!r} weighs coordinates, of which the mean alone can be taken: "
            f"no other aggregator than 'mean', and no attackers on vectors"
        )
    blocks = (_rows_of(uplink) for uplink in uplinks)
    num_rows = sum(client in setup.problem.client_data.clients for client in cohort)
    key = RandomKey(setup.problem.objective.seed, round)
    vector = flatten(like)
    sent = ClientMatrix.from_stream(setup.communicator, blocks, num_rows, vector, setup.bucket_bytes)
    matrix = attack(setup, sent, cohort, key)
    vector = torch.full_like(vector, math.nan)
    try:
        vector = setup.aggregator(matrix, key)
    except NotFiniteError as error:
        hostile = hostile_rows(setup, cohort)
        if all(hostile[row] for row in error.rows):
            names = ", ".join(name_of_row(setup, cohort, row) for row in error.rows)
            raise SharedUserError(
                f"round {round + 1}: NaN or inf from {names}, which the mean does not survive; "
                f"use another aggregator than 'mean', or something before it"
            ) from error
    except TooFewVectorsError:
        pass
    # now, since the rule has found it out with what it looked at
    return vector, int((~matrix.finite()).sum())


def _rows_of(uplink: AnyUplink) -> torch.Tensor:
    """Return a row a client, (K, D)."""
    if isinstance(uplink, UplinkRows):
        number = len(uplink.clients)
        return torch.cat([as_matrix(value, number) for value in uplink.params.values()], dim=1)
    return flatten(uplink.params).unsqueeze(0)
