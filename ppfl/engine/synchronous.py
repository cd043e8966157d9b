"""Rounds: sample a cohort, run its clients, aggregate, step, and now and then score."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from ppfl.core.params import num_bytes
from ppfl.engine.evaluate import score_round
from ppfl.engine.group import ClientGroup
from ppfl.engine.reduce import aggregate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from ppfl.core.types import Params, State
    from ppfl.engine.group import Uplink
    from ppfl.engine.setup import Setup

EXPLOSION_FACTOR = 1e3
"""A loss more than this many times the first one (or 1, if that is larger) counts as diverged."""


@dataclass
class Costs:
    """What the rounds have cost so far, over all clients of all ranks."""

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    seconds: float = 0.0
    """Wall-clock seconds in rounds on rank 0, without scoring and writing."""


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
    server: State = field(init=False)
    group: ClientGroup = field(init=False)
    status: Literal["running", "complete", "diverged"] = field(init=False, default="running")

    def __post_init__(self) -> None:
        setup = self.setup
        shared = setup.problem.init_shared()
        self.server = setup.algorithm.init_server(shared, setup.server_optimizer)
        self.group = ClientGroup(setup.problem, setup.algorithm, shared, setup.clients_per_chunk)
        setup.communicator.protect(self.group)
        self._costs = Costs()
        # one row a client of this rank, so that totals are added up in client order on any number of ranks
        self._gradients = torch.zeros(len(self.group.clients), 2, dtype=torch.float64)
        # a gradient of nothing is none
        self._sides = torch.tensor([bool(shared), any(map(setup.problem.init_local, self.group.clients))])
        self._limit = math.inf

    def __iter__(self) -> Iterator[Scored]:
        """Run all rounds; yield the scores at round 0, at every `evaluate_every`-th and at the last. Collective."""
        yield self._score(0)
        for round in range(self.setup.num_rounds):
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
        self.status = "complete"

    def _round(self, round: int) -> bool:
        """θ, w ← one round. Returns False when the aggregate has NaN or inf; θ then stays as it was."""
        setup, started = self.setup, time.perf_counter()
        cohort = setup.cohort(round)
        message = setup.algorithm.downlink(self.server, round)
        uplinks = self._counted(self.group.step(message, cohort, round))
        combined = aggregate(setup, uplinks, cohort, like=setup.algorithm.uplink_like(self.server))
        finite = all(bool(torch.isfinite(value).all()) for value in combined.values())
        if finite:
            self.server = setup.algorithm.server(self.server, combined, setup.server_optimizer, round)
        self._count_bytes(message, combined, len(cohort))
        self._costs.seconds += time.perf_counter() - started
        return finite

    def _counted(self, uplinks: Iterator[Uplink]) -> Iterator[Uplink]:
        for uplink in uplinks:
            counted = torch.tensor(self.setup.algorithm.num_gradients(uplink.num_samples), dtype=torch.float64)
            self._gradients[uplink.client - self.group.clients.start] += counted * self._sides
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
        """Add up what was counted for every client of all ranks; bytes and seconds are the same on all."""
        costs = self._costs
        of_clients = self.setup.communicator.allgather_rows(self._gradients)
        shared_gradients, local_gradients = (math.fsum(column) for column in of_clients.T.tolist())
        return {
            "shared_gradients": shared_gradients,
            "local_gradients": local_gradients,
            "uplink_bytes": float(costs.uplink_bytes),
            "downlink_bytes": float(costs.downlink_bytes),
            "seconds": costs.seconds,
        }
