"""A run of an engine: its server, its clients, its ledger; and the synchronous round."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ppfl.core.params import all_finite
from ppfl.engine.best_round import Best, states_of_now
from ppfl.engine.checkpoint import StatesOf, name_state, read_state
from ppfl.engine.exchange.combine import combine
from ppfl.engine.exchange.exchanged import Exchanged
from ppfl.engine.exchange.gossip import Neighbours, gossip
from ppfl.engine.exchange.lost import of_arrived, of_unheard
from ppfl.engine.exchange.misreports import as_sent
from ppfl.engine.exchange.mixing import mix
from ppfl.engine.exchange.queries import ask
from ppfl.engine.group import ClientGroup
from ppfl.engine.ledger import Ledger, Status, timed
from ppfl.engine.participants import Downlink
from ppfl.interfaces.gossip import Gossip
from ppfl.interfaces.mixing import Mixing
from ppfl.interfaces.personal_aggregates import PersonalAggregates
from ppfl.interfaces.query_points import QueryPoints

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np

    from ppfl.core.snapshot import ClientStates, Snapshot
    from ppfl.core.types import Params, State
    from ppfl.engine.clock import RoundOnClock
    from ppfl.engine.ledger import Scored
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
        self.neighbours = Neighbours(setup) if isinstance(setup.algorithm, Gossip) else None
        """Of the nodes of this rank, where clients are nodes of a graph."""
        self.best = None if setup.best_round is None else Best(setup, setup.best_round, self.group)
        """The best round by validation, where it is wanted."""
        setup.communicator.protect(self.group)

    @property
    def status(self) -> Status:
        """How far it is, and how it ended."""
        return self.ledger.status

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of this run, on any number of ranks."""
        self.ledger.restore(snapshot.numbers)
        self.ledger.told.restore(snapshot.tensors)
        self.server = read_state(snapshot.tensors, "server", self.server, self.setup.device)
        self.group.restore(states_of_now(snapshot.states))
        if self.best is not None:
            self.best.restore(snapshot, self.server)

    def scored(
        self,
        round: int,
        metrics: dict[str, float | np.ndarray],
        more_costs: Mapping[str, float],
        *,
        is_finite: bool = True,
    ) -> Scored:
        """Return a row of the result; decide on divergence, and on the best round and an early end. Collective."""
        found = self.ledger.scored(round, metrics, more_costs, is_finite=is_finite)
        if self.best is not None:
            self.best.judge(self, found)
        return found

    def _numbers(self) -> dict[str, Any]:
        """Return what a snapshot needs to know beside tensors. Collective."""
        return self.ledger.numbers() | ({} if self.best is None else {"best": self.best.numbers()})

    def _server_tensors(self) -> Params:
        """Return the server's state as tensors of a snapshot."""
        return name_state("server", self.server) | ({} if self.best is None else self.best.tensors())

    def _states(self) -> ClientStates:
        """Return the states of this rank's clients for a snapshot."""
        return StatesOf(self.group) if self.best is None else self.best.states


def play_round(run: Run, round: int) -> bool:
    """θ, w ← one round. Collective.

    Returns False when the aggregate has NaN or inf; θ stays as it was then, and so do aggregates of single clients.
    """
    with timed(run.ledger):
        setup, group = run.setup, run.group
        cohort = setup.cohort(round)
        if round + 1 < setup.num_rounds:
            group.prefetch(setup.cohort(round + 1))
        on_clock = setup.on_clock(run.server, cohort, round)
        group.remember(round)
        exchanged = _exchanged(run, cohort, on_clock, round)
        run.ledger.count_bytes(exchanged.downlink_bytes, exchanged.uplink_bytes)
        run.ledger.costs.nonfinite_clients += exchanged.num_nonfinite
        run.ledger.count_round(on_clock)
        run.ledger.told.check()
    return exchanged.is_finite


def _exchanged(run: Run, cohort: frozenset[int], on_clock: RoundOnClock, round: int) -> Exchanged:
    """Let the clients of a cohort work, and make of what those who are heard send what the method wants: one aggregate
    for the server, or one for each of them. Collective."""
    setup, group = run.setup, run.group
    if isinstance(setup.algorithm, QueryPoints):
        return ask(setup, group, run.server, cohort, round, partial(_counted, run))
    downlink = Downlink(setup.algorithm, run.server, round)
    like = setup.algorithm.uplink_like(run.server)
    # clients work as their uplinks are asked for
    uplinks = _counted(run, as_sent(setup, run.server, group.step(downlink, cohort, round), round))
    if run.neighbours is not None:
        return gossip(setup, group, run.neighbours, run.server, uplinks, cohort, round)
    mine = [client for client in cohort if client in group.clients]
    if not on_clock.is_heard:
        sent_bytes = of_unheard(setup, run.server, uplinks, on_clock.arrived, like, round)
        received = 0 if isinstance(setup.algorithm, PersonalAggregates) else downlink.num_bytes(mine)
        return Exchanged(True, received, sent_bytes, 0)
    arrived = on_clock.arrived
    if len(arrived) < len(cohort):
        uplinks = of_arrived(uplinks, arrived)
    if isinstance(setup.algorithm, Mixing):
        return mix(setup, group, run.ledger.told, run.server, uplinks, arrived, like, round)
    aggregate = combine(setup, run.server, uplinks, arrived, like, round)
    is_finite = all_finite(aggregate.params)
    if is_finite:
        _serve(run, aggregate.params, arrived, round)
    return Exchanged(is_finite, downlink.num_bytes(mine), aggregate.num_bytes, aggregate.num_nonfinite)


def _serve(run: Run, combined: Params, cohort: frozenset[int], round: int) -> None:
    setup = run.setup
    share = setup.share_of(cohort)
    algorithm = setup.algorithm_at(round)
    optimizer = setup.server_optimizer_at(round)
    run.server = algorithm.server_of_cohort(run.server, combined, optimizer, round, share)


def _counted(run: Run, uplinks: Iterable[AnyUplink]) -> Iterator[AnyUplink]:
    for uplink in uplinks:
        # numbers are one report for all clients of a mapping
        for _, alike in groupby(uplink.reports, key=id):
            first, *others = alike
            run.ledger.count_clients(first, 1 + len(others))
        run.ledger.told.note(uplink.clients, uplink.reports)
        yield uplink
