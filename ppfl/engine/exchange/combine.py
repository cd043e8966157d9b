"""From the uplinks of a cohort to one aggregate on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ppfl.core.params import unflatten
from ppfl.engine.exchange.rows import by_rule
from ppfl.engine.exchange.sent import Sent
from ppfl.engine.exchange.sums import weighted_mean, weighted_means
from ppfl.engine.mapping.mapping import UplinkRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    setups: Sequence[Setup],
    servers: Sequence[State],
    uplinks: Sequence[Iterable[AnyUplink]],
    cohorts: Sequence[frozenset[int]],
    likes: Sequence[Params],
    round: int,
) -> list[Aggregate]:
    """Return the aggregate of each run's cohort, the same bits on every rank. Collective.

    likes: names and shapes of an uplink, also for a rank that has no client in the cohort. Raises LocalParameterError
    when an uplink has a name that is not among them, and SharedUserError when an attacker hands NaN or inf to the mean.
    NaN or inf of honest clients under the mean is no error: it is how a run diverges.
    """
    of_runs = list(zip(setups, servers, uplinks, cohorts, likes, strict=True))
    sent = [Sent(setup.algorithm, server, of, cohort, like, round) for setup, server, of, cohort, like in of_runs]
    if len(setups) > 1 and not any(of.is_weighed for of in sent):
        return _of_several(setups, sent, likes)
    return [
        _of_one(setup, of, cohort, like, round)
        for setup, of, cohort, like in zip(setups, sent, cohorts, likes, strict=True)
    ]


def _of_one(setup: Setup, uplinks: Sent, cohort: frozenset[int], like: Params, round: int) -> Aggregate:
    if not like:  # everything is local: the clients work, and nothing is sent
        for _ in uplinks:
            pass
        return Aggregate({}, 0, 0)
    if setup.adds_up:
        vector, num_nonfinite = weighted_mean(setup, uplinks, cohort, like), 0
    else:
        vector, num_nonfinite = by_rule(setup, uplinks, sorted(cohort), like, round)
    return Aggregate(unflatten(vector, like), num_nonfinite, uplinks.num_bytes)


def _of_several(setups: Sequence[Setup], uplinks: Sequence[Sent], likes: Sequence[Params]) -> list[Aggregate]:
    """Return the means of runs whose clients are lanes of one computation in this process."""
    rows = [one for sent in uplinks for one in sent if isinstance(one, UplinkRows)]
    if not likes[0]:
        return [Aggregate({}, 0, 0) for _ in setups]
    means = weighted_means(setups, rows)
    return [
        Aggregate(unflatten(mean, like), 0, of.num_bytes) for mean, of, like in zip(means, uplinks, likes, strict=True)
    ]
