"""What a run has cost, how it scored and whether it has diverged: kept once, the same for every schedule."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from ppfl.engine.spent import Spent
from ppfl.engine.told import Told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from ppfl.engine.clock import RoundOnClock
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.method import Report

Status: TypeAlias = Literal["running", "complete", "diverged", "stopped"]
"""`stopped`: before its end, because somebody wished so; the checkpointer has a snapshot."""

COUNTED = ("shared_gradients", "local_gradients")
"""What of the reports of clients is a cost."""

_BYTES = ("uplink_bytes", "downlink_bytes")

TOTALS = (*COUNTED, *_BYTES, "seconds", "communication_seconds")
"""Costs that every row of a result has."""

EXPLOSION_FACTOR = 1e6
"""A loss more than this many times the first one (or 1, if that is larger) counts as diverged."""


@dataclass(frozen=True)
class Scored:
    """Scores and costs after `round` rounds."""

    round: int
    metrics: dict[str, float | np.ndarray]
    costs: dict[str, float]


@dataclass
class Costs:
    """What the rounds have cost so far; gradients and bytes are those that this rank counted."""

    shared_gradients: float = 0.0
    local_gradients: float = 0.0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    seconds: float = 0.0
    """Wall-clock seconds in rounds on rank 0, without scoring and writing."""
    communication_seconds: float = 0.0
    """Those of them in collectives and messages, waiting for other ranks included."""
    nonfinite_clients: int = 0
    """Vectors that robust rules left out for NaN or inf, one a client and round."""
    virtual_seconds: float = 0.0
    """Sum over rounds of how long they last, where the run has compute times or a network."""
    lost_uplinks: int = 0
    """Uplinks of clients that were asked, and which the network lost or brought too late."""
    silent_rounds: int = 0
    """Rounds in which the server heard too few clients, so that θ stayed as it was."""


@dataclass
class StageCosts:
    """What the training of a final stage has cost, over all clients of all ranks; nothing where nothing is tuned."""

    shared_gradients: float = 0.0
    """Of whole models, where nothing is local; in the unit of the rounds, each over one batch of one client."""
    local_gradients: float = 0.0
    seconds: float = 0.0
    """Wall-clock seconds of tuning alone, on the rank that took longest."""

    def count(self, setup: Setup, num_gradients: float | torch.Tensor, num_clients: int = 1) -> None:
        """Count a call of the fine-tuner; where whole models are tuned these are gradients of θ, as in the rounds."""
        if setup.tuned_problem is not setup.problem:
            self.shared_gradients += num_clients * summable(num_gradients)
        else:
            self.local_gradients += num_clients * summable(num_gradients)


class Ledger:
    """The costs, the scores and the status of one run.

    Every rank counts the gradients and bytes of its own clients, or `coordinator` those of all; all else is the same on
    all ranks.
    """

    def __init__(self, setup: Setup, coordinator: int | None = None) -> None:
        self.status: Status = "running"
        self.costs = Costs()
        self.spent = Spent()
        self.told = Told(setup)
        self._setup = setup
        self._coordinator = coordinator
        self._limit = math.inf
        num_local = len(setup.problem.local_names)
        self._has_side = {
            "shared_gradients": len(setup.problem.objective.parameter_names) > num_local,
            "local_gradients": num_local > 0,
        }

    @property
    def communication_seconds(self) -> float:
        """Seconds in collectives and messages so far, whatever they were for."""
        return self._setup.communicator.seconds

    def seconds(self) -> dict[str, float]:
        """Return what the time of all tries until now was spent on, on this rank; `rest` is what has no name."""
        in_rounds, communicated = self.costs.seconds, self.costs.communication_seconds
        named = {"rounds": in_rounds - communicated, "communication": communicated, **self.spent.seconds}
        return {**named, "rest": self.spent.total - sum(named.values())}

    def count_clients(self, report: Report, num_clients: int = 1) -> None:
        """Count the gradients that each of some clients tells of in a report; none of a side without parameters."""
        for name in COUNTED:
            if name in report and self._has_side[name]:
                setattr(self.costs, name, getattr(self.costs, name) + num_clients * summable(report[name]))

    def count_bytes(self, downlink: int, uplink: int) -> None:
        """Count what was sent to some clients, and what they sent."""
        self.costs.downlink_bytes += downlink
        self.costs.uplink_bytes += uplink

    def count_round(self, on_clock: RoundOnClock) -> None:
        """Count how long a round lasted, and what of it was lost."""
        self.costs.virtual_seconds += on_clock.seconds
        self.costs.lost_uplinks += on_clock.num_lost
        self.costs.silent_rounds += not on_clock.is_heard

    def add(self, costs: Costs, counts: Mapping[str, float]) -> None:
        """Add what rounds have cost that were computed together with those of other runs; counts: of gradients."""
        for name, count in counts.items():
            if self._has_side[name]:
                setattr(self.costs, name, getattr(self.costs, name) + count)
        self.count_bytes(costs.downlink_bytes, costs.uplink_bytes)
        self.costs.seconds += costs.seconds

    def scored(
        self,
        round: int,
        metrics: dict[str, float | np.ndarray],
        more_costs: Mapping[str, float],
        *,
        is_finite: bool = True,
    ) -> Scored:
        """Return a row of the result: scores and costs after `round` rounds; decide on divergence. Collective."""
        self.judge(round, float(metrics["loss"]), is_finite=is_finite)
        self.told.check()
        return Scored(round, {**metrics, **self.told.series()}, self._totals(more_costs))

    def judge(self, round: int, loss: float, *, is_finite: bool) -> None:
        """Decide on divergence: the aggregate of the last round was not finite, or the loss is not, or it has exploded.

        The first loss sets the limit, whatever it is.
        """
        if round == 0:
            self._limit = EXPLOSION_FACTOR * max(1.0, abs(loss))
        elif not is_finite or not math.isfinite(loss) or loss > self._limit:
            self.status = "diverged"

    def numbers(self) -> dict[str, Any]:
        """Return what a snapshot needs to know, what ranks counted by themselves added up. Collective."""
        costs = asdict(self.costs) | self._counts_of_all()
        costs |= {name: int(costs[name]) for name in _BYTES}
        return {"limit": self._limit, "costs": costs, "spent": self.spent.numbers()}

    def restore(self, numbers: Mapping[str, Any]) -> None:
        """Go on from the numbers of a snapshot; what ranks count by themselves is a sum, and rank 0 has it."""
        self._limit = numbers["limit"]
        self.spent.restore(numbers.get("spent", {}))
        self.costs = Costs(**numbers["costs"])
        if self._setup.communicator.rank != 0:
            self.costs.shared_gradients = self.costs.local_gradients = 0.0
            self.costs.uplink_bytes = self.costs.downlink_bytes = 0

    def _totals(self, more: Mapping[str, float]) -> dict[str, float]:
        """Return what all ranks have spent so far. Collective."""
        totals = {**{name: float(getattr(self.costs, name)) for name in TOTALS}, **more}
        if self._coordinator is None:
            return totals if self._setup.communicator.size == 1 else totals | self._counts_of_all()
        values = torch.tensor(list(totals.values()), dtype=torch.float64)
        told = self._setup.communicator.broadcast(values, self._coordinator)
        return dict(zip(totals, told.tolist(), strict=True))

    def _counts_of_all(self) -> dict[str, float]:
        names = (*COUNTED, *_BYTES)
        # sums of whole numbers, or of multiples of 2⁻²⁰, lose nothing
        mine = torch.tensor([getattr(self.costs, name) for name in names], dtype=torch.float64)
        return dict(zip(names, self._setup.communicator.allreduce(mine, "sum").tolist(), strict=True))


@contextmanager
def timed(ledger: Ledger) -> Iterator[None]:
    """Count the seconds of what is done inside, and those of them spent in communication."""
    started, before = time.perf_counter(), ledger.communication_seconds
    yield
    ledger.costs.seconds += time.perf_counter() - started
    ledger.costs.communication_seconds += ledger.communication_seconds - before


def summable(count: float | torch.Tensor) -> float:
    """Return a multiple of 2⁻²⁰: sums of those are exact in any order up to 2³³, the same on any number of ranks."""
    return round(float(count) * 2**20) / 2**20
