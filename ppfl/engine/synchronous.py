"""Rounds: sample a cohort, run its clients, aggregate, step, and now and then score."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from ppfl.core.params import largest_entry, num_bytes
from ppfl.core.snapshot import Snapshot
from ppfl.engine.checkpoint import (
    Keeper,
    StatesOf,
    agree,
    name_costs,
    name_state,
    read_state,
    restore_costs,
)
from ppfl.engine.costs import Costs
from ppfl.engine.evaluate import score_round
from ppfl.engine.group import ClientGroup, UplinkSum
from ppfl.engine.reduce import aggregate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from ppfl.core.types import Params, State
    from ppfl.engine.group import Uplink
    from ppfl.engine.setup import Setup

Status: TypeAlias = Literal["running", "complete", "diverged", "stopped"]
"""`stopped`: before its end, because somebody wished so; the keeper has a snapshot."""

EXPLOSION_FACTOR = 1e6
"""A loss more than this many times the first one (or 1, if that is larger) counts as diverged."""


@dataclass(frozen=True)
class Scored:
    """Scores and costs after `round` rounds."""

    round: int
    metrics: dict[str, float | np.ndarray]
    costs: dict[str, float]


@dataclass
class Synchronous:
    """A run in rounds; iterate over it to run it. After that, `server` and `group` hold the final state."""

    setup: Setup
    keeper: Keeper | None = None
    """Who keeps snapshots and says when to stop; nobody does when None."""
    server: State = field(init=False)
    group: ClientGroup = field(init=False)
    status: Status = field(init=False, default="running")

    def __post_init__(self) -> None:
        setup = self.setup
        shared = setup.problem.init_shared()
        self.server = setup.algorithm.init_server(shared, setup.server_optimizer)
        self.group = ClientGroup(setup, shared)
        setup.communicator.protect(self.group)
        self._costs = Costs()
        self._limit = math.inf
        self._done = 0

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
                scored = self._score(done)
                diverged = not finite or self._exploded(scored)
                if diverged:
                    self.status = "diverged"
                yield scored
                if diverged:
                    return
            if done < self.setup.num_rounds and self._stops_after(done):
                self.status = "stopped"
                return
        self.status = "complete"

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of this run, on any number of ranks."""
        self._done = snapshot.round
        self._limit = snapshot.numbers["limit"]
        device = self.setup.device
        self.server = read_state(snapshot.tensors, "server", self.server, device)
        self.group.restore(snapshot.states)
        restore_costs(self._costs, snapshot.numbers["costs"], self.setup.communicator.rank)

    def _snapshot(self, done: int) -> Snapshot:
        """Return the state of this rank. Collective."""
        communicator = self.setup.communicator
        numbers = {"limit": self._limit, "costs": name_costs(self._costs, communicator)}
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
        with self._costs.timed(self.setup.communicator):
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
        self._count_bytes(message, combined, len(cohort))
        self._costs.nonfinite_clients += num_nonfinite
        self._costs.virtual_seconds += self._virtual_seconds(cohort, round)
        return finite

    def _virtual_seconds(self, cohort: frozenset[int], round: int) -> float:
        """Return how long a round lasts: until the slowest client has arrived."""
        times, seed = self.setup.compute_times, self.setup.problem.seed
        return max(times.seconds(seed, client, round) for client in cohort) if times is not None else 0.0

    def _counted(self, uplinks: Iterator[Uplink | UplinkSum], round: int) -> Iterator[Uplink | UplinkSum]:
        for uplink in uplinks:
            of_clients = uplink.num_samples if isinstance(uplink, UplinkSum) else (uplink.num_samples,)
            for num_samples in of_clients:
                shared_gradients, local_gradients = self.setup.num_gradients(num_samples, round)
                self._costs.shared_gradients += shared_gradients
                self._costs.local_gradients += local_gradients
            yield uplink

    def _count_bytes(self, message: Params, combined: Params, cohort_size: int) -> None:
        self._costs.downlink_bytes += cohort_size * num_bytes(message)
        self._costs.uplink_bytes += cohort_size * num_bytes(combined)

    def _score(self, round: int) -> Scored:
        metrics = score_round(self.setup, self.group, self.server, round)
        if round == 0:
            self._limit = EXPLOSION_FACTOR * max(1.0, abs(float(metrics["loss"])))
        return Scored(round, metrics, self._total_costs())

    def _exploded(self, scored: Scored) -> bool:
        loss = float(scored.metrics["loss"])
        return not math.isfinite(loss) or loss > self._limit

    def _total_costs(self) -> dict[str, float]:
        """Add up over ranks what each counted for its own clients; bytes and seconds are the same on all."""
        costs = self._costs
        mine = torch.tensor([costs.shared_gradients, costs.local_gradients], dtype=torch.float64)
        shared_gradients, local_gradients = self.setup.communicator.allreduce(mine, "sum").tolist()
        virtual = {} if self.setup.compute_times is None else {"virtual_seconds": costs.virtual_seconds}
        robust = not self.setup.aggregator.linear or self.setup.byzantine is not None
        lost = {"nonfinite_clients": float(costs.nonfinite_clients)} if robust else {}
        return {
            "shared_gradients": shared_gradients,
            "local_gradients": local_gradients,
            "uplink_bytes": float(costs.uplink_bytes),
            "downlink_bytes": float(costs.downlink_bytes),
            "seconds": costs.seconds,
            "communication_seconds": costs.communication_seconds,
            **virtual,
            **lost,
        }
