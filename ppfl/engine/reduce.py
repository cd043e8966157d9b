"""From the uplinks of a cohort to one aggregate on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.client_matrix import ClientMatrix
from ppfl.core.communicator import LocalParameterError
from ppfl.core.exact_sum import ExactSum
from ppfl.core.params import flatten, unflatten

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ppfl.core.types import Params
    from ppfl.engine.group import Uplink
    from ppfl.engine.setup import Setup


def aggregate(setup: Setup, uplinks: Iterable[Uplink], cohort: frozenset[int], like: Params) -> Params:
    """Return the aggregate of the cohort's uplinks, the same bits on every rank. Collective.

    `like` has the names and shapes of an uplink, also for a rank that has no client in the cohort. Raises
    LocalParameterError when an uplink has a name that is not among them.
    """
    checked = (_checked(setup, uplink, like) for uplink in uplinks)
    if not like:  # everything is local: the clients work, and nothing is sent
        for _ in checked:
            pass
        return {}
    vector = _linear(setup, checked, cohort, like) if setup.aggregator.linear else _by_rows(setup, checked, like)
    return unflatten(vector, like)


def _linear(setup: Setup, uplinks: Iterable[Uplink], cohort: frozenset[int], like: Params) -> torch.Tensor:
    """Σ_m p_m x_m, accumulated as the rows are produced."""
    total_weight = sum(setup.client_weights[client] for client in sorted(cohort))
    first = next(iter(like.values()))
    length = sum(value.numel() for value in like.values())
    total = ExactSum(length, first.device)
    for uplink in uplinks:
        total.add(flatten(uplink.params).to(torch.float64) * (setup.client_weights[uplink.client] / total_weight))
    return total.reduce(setup.communicator)


def _by_rows(setup: Setup, uplinks: Iterable[Uplink], like: Params) -> torch.Tensor:
    rows = [flatten(uplink.params) for uplink in uplinks]
    empty = flatten(like).new_zeros(0, sum(value.numel() for value in like.values()))
    return setup.aggregator(ClientMatrix.from_rows(setup.communicator, torch.stack(rows) if rows else empty))


def _checked(setup: Setup, uplink: Uplink, like: Params) -> Uplink:
    if uplink.params.keys() != like.keys():
        raise LocalParameterError(
            f"the uplink of {setup.algorithm.name} has {', '.join(uplink.params)}, but only {', '.join(like)} may "
            f"leave a client: local parameters stay on the rank of their client"
        )
    return uplink
