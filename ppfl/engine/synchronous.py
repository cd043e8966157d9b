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

EXPLOSION_FACTOR = 1e6
"""A loss more than this many times the first one (or 1, if that is larger) counts as diverged."""


@dataclass
class Costs:
    """What the rounds have cost so far, over all clients of all ranks."""

    shared_gradients: float = 0.0
    local_gradients: float = 0.0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    seconds: float = 0.0
    """Wall-clock seconds in rounds on rank 0, without scoring and writing."""
    nonfinite_clients: int = 0
    """Vectors that robust rules left out for NaN or inf, one a client and round."""
    virtual_seconds: float = 0.0
    """Sum over rounds of the slowest client's compute time, where the run has compute times."""


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
        like = setup.algorithm.uplink_like(self.server)
        combined, num_nonfinite = aggregate(setup, uplinks, cohort, like, round)
        finite = all(bool(torch.isfinite(value).all()) for value in combined.values())
        if finite:
            self.server = setup.algorithm.server(self.server, combined, setup.server_optimizer, round)
        self._count_bytes(message, combined, len(cohort))
        self._costs.nonfinite_clients += num_nonfinite
        self._costs.virtual_seconds += self._virtual_seconds(cohort, round)
        self._costs.seconds += time.perf_counter() - started
        return finite

    def _virtual_seconds(self, cohort: frozenset[int], round: int) -> float:
        """Return how long a round lasts: until the slowest client has arrived."""
        times, seed = self.setup.compute_times, self.setup.problem.seed
        return max(times.seconds(seed, client, round) for client in cohort) if times is not None else 0.0

    def _counted(self, uplinks: Iterator[Uplink]) -> Iterator[Uplink]:
        for uplink in uplinks:
            shared_gradients, local_gradients = self.setup.num_gradients(uplink.num_samples)
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
            **virtual,
            **lost,
        }
