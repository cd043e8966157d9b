"""Rounds: sample a cohort, run its clients, aggregate, step, and now and then score."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ppfl.core.params import largest_entry
from ppfl.core.snapshot import Snapshot
from ppfl.engine.checkpoint import Keeper, StatesOf, agree, name_state, read_state
from ppfl.engine.evaluate import score_round
from ppfl.engine.group import ClientGroup, UplinkSum
from ppfl.engine.ledger import Ledger, Scored, Status
from ppfl.engine.reduce import aggregate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.types import State
    from ppfl.engine.group import Uplink
    from ppfl.engine.setup import Setup


@dataclass
class Synchronous:
    """A run in rounds; iterate over it to run it. After that, `server` and `group` hold the final state."""

    setup: Setup
    keeper: Keeper | None = None
    """Who keeps snapshots and says when to stop; nobody does when None."""
    server: State = field(init=False)
    group: ClientGroup = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        setup = self.setup
        shared = setup.problem.init_shared()
        self.server = setup.algorithm.init_server(shared, setup.server_optimizer)
        self.group = ClientGroup(setup, shared)
        setup.communicator.protect(self.group)
        self.ledger = Ledger(setup)
        self._done = 0

    @property
    def status(self) -> Status:
        """How far it is, and how it ended."""
        return self.ledger.status

    def __iter__(self) -> Iterator[Scored]:
        """Run the rounds that are left; yield scores at 0, at every `evaluate_every`-th and at the last. Collective.

        Between two rounds the keeper may have a snapshot taken, or the run stopped.
        """
        if self._done == 0:
            yield self._score(0)
        for round in range(self._done, self.setup.num_rounds):
            finite = self._round(round)
            done = round + 1
            if done % self.setup.evaluate_every == 0 or done == self.setup.num_rounds or not finite:
                yield self._score(done, is_finite=finite)
                if self.status == "diverged":
                    return
            if done < self.setup.num_rounds and self._stops_after(done):
                self.ledger.status = "stopped"
                return
        self.ledger.status = "complete"

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of this run, on any number of ranks."""
        self._done = snapshot.round
        self.ledger.restore(snapshot.numbers)
        device = self.setup.device
        self.server = read_state(snapshot.tensors, "server", self.server, device)
        self.group.restore(snapshot.states)

    def _snapshot(self, done: int) -> Snapshot:
        """Return the state of this rank. Collective."""
        communicator = self.setup.communicator
        numbers = self.ledger.numbers()
        of_all = name_state("server", self.server) if communicator.rank == 0 else {}
        return Snapshot(done, self.group.clients, numbers, of_all, StatesOf(self.group))

    def _stops_after(self, done: int) -> bool:
        """Do what all ranks agree on: save, stop. Collective."""
        wish = agree(self.keeper, self.setup.communicator, done)
        if self.keeper is not None and (wish.save or wish.stop):
            self.keeper.save(self._snapshot(done))
        return wish.stop

    def _round(self, round: int) -> bool:
        """θ, w ← one round. Returns False when the aggregate has NaN or inf; θ then stays as it was."""
        with self.ledger.timed():
            return self._timed_round(round)

    def _timed_round(self, round: int) -> bool:
        setup = self.setup
        cohort = setup.cohort(round)
        if round + 1 < setup.num_rounds:
            self.group.prefetch(setup.cohort(round + 1))
        message = setup.algorithm.downlink(self.server, round)
        uplinks = self._counted(self.group.step(message, cohort, round), round)
        like = setup.algorithm.uplink_like(self.server)
        combined, num_nonfinite = aggregate(setup, uplinks, cohort, like, round)
        finite = all(math.isfinite(largest_entry(value)) for value in combined.values())
        if finite:
            share = setup.share_of(cohort)
            self.server = setup.algorithm.server_of_cohort(self.server, combined, setup.server_optimizer, round, share)
        self.ledger.count_messages(message, combined, len(cohort))
        self.ledger.costs.nonfinite_clients += num_nonfinite
        self.ledger.costs.virtual_seconds += self._virtual_seconds(cohort, round)
        return finite

    def _virtual_seconds(self, cohort: frozenset[int], round: int) -> float:
        """Return how long a round lasts: until the slowest client has arrived."""
        times, seed = self.setup.compute_times, self.setup.problem.seed
        return max(times.seconds(seed, client, round) for client in cohort) if times is not None else 0.0

    def _counted(self, uplinks: Iterator[Uplink | UplinkSum], round: int) -> Iterator[Uplink | UplinkSum]:
        for uplink in uplinks:
            of_clients = uplink.num_samples if isinstance(uplink, UplinkSum) else (uplink.num_samples,)
            for num_samples in of_clients:
                self.ledger.count_clients(num_samples, round)
            yield uplink

    def _score(self, round: int, *, is_finite: bool = True) -> Scored:
        metrics = score_round(self.setup, self.group, self.server, round)
        return self.ledger.scored(round, metrics, self._more_costs(), is_finite=is_finite)

    def _more_costs(self) -> dict[str, float]:
        """Return the costs that only some runs have."""
        setup, costs = self.setup, self.ledger.costs
        virtual = {} if setup.compute_times is None else {"virtual_seconds": costs.virtual_seconds}
        robust = not setup.aggregator.linear or setup.byzantine is not None
        return {**virtual, **({"nonfinite_clients": float(costs.nonfinite_clients)} if robust else {})}
