"""From the uplinks of a cohort to one aggregate on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ppfl.core.communicator import LocalParameterError
from ppfl.core.params import unflatten
from ppfl.engine.exchange.rows import by_rule
from ppfl.engine.exchange.sums import weighted_mean, weighted_means
from ppfl.engine.mapping.uplinks import UplinkRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ppfl.core.types import Params
    from ppfl.engine.mapping.uplinks import AnyUplink
    from ppfl.engine.setup import Setup


class Aggregate(NamedTuple):
    """What became of a cohort's uplinks; NaN when they cannot be aggregated, since the run has diverged."""

    params: Params
    num_nonfinite: int
    """Vectors that were left out for NaN or inf."""


def combine(
    setups: Sequence[Setup],
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
    checked = [_checked(setup, sent, like) for setup, sent, like in zip(setups, uplinks, likes, strict=True)]
    if len(setups) > 1:
        return _of_several(setups, checked, likes)
    return [_of_one(setups[0], checked[0], cohorts[0], likes[0], round)]


def _of_one(setup: Setup, uplinks: Iterator[AnyUplink], cohort: frozenset[int], like: Params, round: int) -> Aggregate:
    if not like:  # everything is local: the clients work, and nothing is sent
        for _ in uplinks:
            pass
        return Aggregate({}, 0)
    if setup.adds_up:
        return Aggregate(unflatten(weighted_mean(setup, uplinks, cohort, like), like), 0)
    vector, num_nonfinite = by_rule(setup, uplinks, sorted(cohort), like, round)
    return Aggregate(unflatten(vector, like), num_nonfinite)


def _of_several(
    setups: Sequence[Setup], uplinks: Sequence[Iterator[AnyUplink]], likes: Sequence[Params]
) -> list[Aggregate]:
    """Return the means of runs whose clients are lanes of one computation in this process."""
    rows = [one for sent in uplinks for one in sent if isinstance(one, UplinkRows)]
    if not likes[0]:
        return [Aggregate({}, 0) for _ in setups]
    means = weighted_means(setups, rows)
    return [Aggregate(unflatten(mean, like), 0) for mean, like in zip(means, likes, strict=True)]


def _checked(setup: Setup, uplinks: Iterable[AnyUplink], like: Params) -> Iterator[AnyUplink]:
    for uplink in uplinks:
        if uplink.params.keys() != like.keys():
            raise LocalParameterError(
                f"the uplink of {setup.algorithm.name} has {', '.join(uplink.params)}, but only {', '.join(like)} may "
                f"leave a client: local parameters stay on the rank of their client"
            )
        yield uplink
