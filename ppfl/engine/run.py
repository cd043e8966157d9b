"""A run of an engine: its server, its clients, its ledger; and the synchronous round, of one run or of several."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING

from ppfl.core.params import largest_entry
from ppfl.engine.exchange.combine import combine
from ppfl.engine.group import ClientGroup
from ppfl.engine.ledger import Ledger, Status, timed
from ppfl.engine.participants import Downlink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ppfl.core.types import Params, State
    from ppfl.engine.mapping.laned import Laned
    from ppfl.engine.mapping.mapping import AnyUplink
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.advanced_client import AdvancedClient


class Run:
    """State of a run between two rounds."""

    def __init__(self, setup: Setup, laned: Laned | None = None) -> None:
        self.setup = setup
        shared = setup.problem.objective.init_shared()
        self.server: State = setup.algorithm.init_server(shared, setup.server_optimizer)
        self.group = ClientGroup(setup, shared, laned)
        self.ledger = Ledger(setup)
        self.advanced: dict[int, AdvancedClient] = {}
        """Clients of this rank as the last scores of the rounds have left them, for the final stages."""
        setup.communicator.protect(self.group)

    @property
    def status(self) -> Status:
        """How far it is, and how it ended."""
        return self.ledger.status


def play_round(runs: Sequence[Run], round: int) -> list[bool]:
    """θ, w ← one round of every run. Collective.

    Several runs are computed together by the laned mapping that they share. Returns False for runs whose aggregate has
    NaN or inf; their θ stays as it was.
    """
    with timed([run.ledger for run in runs]):
        setups = [run.setup for run in runs]
        cohorts = [setup.cohort(round) for setup in setups]
        downlinks = [Downlink(run.setup.algorithm, run.server, round) for run in runs]
        likes = [run.setup.algorithm.uplink_like(run.server) for run in runs]
        uplinks = _step(runs, downlinks, cohorts, round)
        sent = [_counted(run, of_run) for run, of_run in zip(runs, uplinks, strict=True)]
        aggregates = combine(setups, [run.server for run in runs], sent, cohorts, likes, round)
        finite = []
        for run, cohort, downlink, aggregate in zip(runs, cohorts, downlinks, aggregates, strict=True):
            combined, num_nonfinite, num_bytes = aggregate
            finite.append(all(math.isfinite(largest_entry(value)) for value in combined.values()))
            if finite[-1]:
                _serve(run, combined, cohort, round)
            mine = cohort.intersection(run.group.clients)
            run.ledger.count_bytes(downlink.num_bytes(mine), num_bytes)
            run.ledger.costs.nonfinite_clients += num_nonfinite
            run.ledger.costs.virtual_seconds += _virtual_seconds(run.setup, cohort, round)
            run.ledger.told.check()
    return finite


def _step(
    runs: Sequence[Run], downlinks: Sequence[Downlink], cohorts: Sequence[frozenset[int]], round: int
) -> list[Iterable[AnyUplink]]:
    """Run the clients; of one run they work as their uplinks are asked for."""
    if len(runs) == 1:
        group, setup = runs[0].group, runs[0].setup
        if round + 1 < setup.num_rounds:
            group.prefetch(setup.cohort(round + 1))
        return [group.step(downlinks[0], cohorts[0], round)]
    laned = runs[0].group.laned
    assert laned is not None
    rows, states = laned.step(downlinks, [run.group.lanes for run in runs], round)
    for run, mine in zip(runs, states, strict=True):
        run.group.keep_lanes(mine)
    return [[one] for one in rows]


def _serve(run: Run, combined: Params, cohort: frozenset[int], round: int) -> None:
    setup = run.setup
    share = setup.share_of(cohort)
    algorithm = setup.algorithm_at(round)
    run.server = algorithm.server_of_cohort(run.server, combined, setup.server_optimizer, round, share)


def _counted(run: Run, uplinks: Iterable[AnyUplink]) -> Iterator[AnyUplink]:
    for uplink in uplinks:
        # numbers are one report for all clients of a mapping
        for _, alike in groupby(uplink.reports, key=id):
            first, *others = alike
            run.ledger.count_clients(first, 1 + len(others))
        run.ledger.told.note(uplink.clients, uplink.reports)
        yield uplink


def _virtual_seconds(setup: Setup, cohort: frozenset[int], round: int) -> float:
    """Return how long a round lasts: until the slowest client has arrived."""
    times, seed = setup.compute_times, setup.problem.objective.seed
    return max(times.seconds(seed, client, round) for client in cohort) if times is not None else 0.0
