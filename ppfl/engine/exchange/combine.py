"""From the uplinks of a cohort to one aggregate on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ppfl.core.params import unflatten
from ppfl.engine.exchange.rows import by_rule
from ppfl.engine.exchange.sent import Sent
from ppfl.engine.exchange.sums import weighted_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ppfl.core.types import Params, State
    from ppfl.engine.mapping.mapping import AnyUplink
    from ppfl.engine.setup import Setup


class Aggregate(NamedTuple):
    """What became of a cohort's uplinks; NaN when they cannot be aggregated, since the run has diverged."""

    params: Params
    num_nonfinite: int
    """Vectors that were left out for NaN or inf."""
    num_bytes: int
    """Size of what the clients of this rank sent."""


def combine(
    setup: Setup,
    server: State,
    uplinks: Iterable[AnyUplink],
    cohort: frozenset[int],
    like: Params,
    round: int,
    query: int | None = None,
) -> Aggregate:
    """Return the aggregate of a cohort, the same bits on every rank. Collective.

    like: names and shapes of an uplink, also for a rank that has no client in the cohort. query: whose query point
    they answer at, where there are such. Raises LocalParameterError
    when an uplink has a name that is not among them, and SharedUserError when an attacker hands NaN or inf to the mean.
    NaN or inf of honest clients under the mean is no error: it is how a run diverges.
    """
    sent = Sent(setup.algorithm, server, uplinks, cohort, like, round)
    if not like:  # everything is local: the clients work, and nothing is sent
        for _ in sent:
            pass
        return Aggregate({}, 0, 0)
    if setup.adds_up:
        vector, num_nonfinite = weighted_mean(setup, sent, cohort, like), 0
    else:
        vector, num_nonfinite = by_rule(setup, sent, sorted(cohort), like, round, query)
    return Aggregate(unflatten(vector, like), num_nonfinite, sent.num_bytes)
