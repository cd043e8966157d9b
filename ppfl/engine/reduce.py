"""From the uplinks of a cohort to one aggregate on every rank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from ppfl.core.aggregator import NotFiniteError, TooFewVectorsError
from ppfl.core.agree import SharedUserError
from ppfl.core.client_matrix import ClientMatrix
from ppfl.core.communicator import LocalParameterError
from ppfl.core.exact_sum import ExactSum
from ppfl.core.params import flatten, unflatten
from ppfl.core.pre_aggregator import Moment
from ppfl.engine.byzantine import attack, hostile_rows, name_of_row
from ppfl.engine.group import Uplink, UplinkSum

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ppfl.core.types import Params
    from ppfl.engine.setup import Setup


class Aggregate(NamedTuple):
    """What became of a cohort's uplinks; NaN when they cannot be aggregated, since the run has diverged."""

    params: Params
    num_nonfinite: int
    """Vectors that were left out for NaN or inf."""


def aggregate(
    setup: Setup, uplinks: Iterable[Uplink | UplinkSum], cohort: frozenset[int], like: Params, round: int
) -> Aggregate:
    """Return the aggregate of the cohort's uplinks, the same bits on every rank. Collective.

    `like` has the names and shapes of an uplink, also for a rank that has no client in the cohort. Raises
    LocalParameterError when an uplink has a name that is not among them, and SharedUserError when an attacker hands
    NaN or inf to the mean. NaN or inf of honest clients under the mean is no error: it is how a run diverges.
    """
    checked = (_checked(setup, uplink, like) for uplink in uplinks)
    if not like:  # everything is local: the clients work, and nothing is sent
        for _ in checked:
            pass
        return Aggregate({}, 0)
    if setup.adds_up:
        return Aggregate(unflatten(_linear(setup, checked, cohort, like), like), 0)
    vector, num_nonfinite = _by_rows(setup, checked, sorted(cohort), like, round)
    return Aggregate(unflatten(vector, like), num_nonfinite)


def _linear(setup: Setup, uplinks: Iterable[Uplink | UplinkSum], cohort: frozenset[int], like: Params) -> torch.Tensor:
    """Σ_m n_m x_m / Σ_m n_m, accumulated as the rows are produced; products with whole numbers lose nothing.

    What comes as the sum over a chunk of clients was added up by their method, in the precision of the run.
    """
    total_weight = sum(setup.client_weights[client] for client in sorted(cohort))
    first = next(iter(like.values()))
    length = sum(value.numel() for value in like.values())
    total = ExactSum(length, first.device)
    for uplink in uplinks:
        weight = setup.client_weights[uplink.client] if isinstance(uplink, Uplink) else 1.0
        total.add(*uplink.params.values(), weight=weight)
    return total.reduce(setup.communicator, setup.bucket_bytes) / total_weight


def _by_rows(
    setup: Setup, uplinks: Iterable[Uplink | UplinkSum], cohort: list[int], like: Params, round: int
) -> tuple[torch.Tensor, int]:
    """Return the aggregate of all rows, those of attackers included, (D,), and how many of them are not finite."""
    rows = (flatten(uplink.params) for uplink in uplinks)
    num_rows = sum(client in setup.problem.clients for client in cohort)
    moment = Moment(setup.problem.seed, round)
    vector = flatten(like)
    sent = ClientMatrix.from_stream(setup.communicator, rows, num_rows, vector, setup.bucket_bytes)
    matrix = attack(setup, sent, cohort, moment)
    num_nonfinite = int((~setup.aggregator.finite(matrix)).sum())
    try:
        return setup.aggregator(matrix, moment), num_nonfinite
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
    return torch.full_like(vector, math.nan), num_nonfinite


def _checked(setup: Setup, uplink: Uplink | UplinkSum, like: Params) -> Uplink | UplinkSum:
    if uplink.params.keys() != like.keys():
        raise LocalParameterError(
            f"the uplink of {setup.algorithm.name} has {', '.join(uplink.params)}, but only {', '.join(like)} may "
            f"leave a client: local parameters stay on the rank of their client"
        )
    return uplink
