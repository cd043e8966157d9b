"""Clients of several runs in one vectorized call, for runs that differ in numbers on a device whose time is launches.

Seeds, step sizes and data may differ. A run of a few small clients hands a card too little at a time, and a grid of
such runs has the same to do for all of them: each client of each run is a lane, a dimension of every kernel
(`ppfl.networks.batched`). All else of a round is done run by run, by the very code of a run that is alone
(`ppfl.engine.run.play_round`), which finds what its clients send already computed.

Batched kernels round otherwise for other batches: last bits depend on the companions. On a CPU, where one client at a
time is fastest, this is never done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ppfl.core import devices
from ppfl.core.gpu_memory import budget_bytes
from ppfl.engine.mapping.mapping import Mapping
from ppfl.engine.mapping.numbers import form_of
from ppfl.engine.mapping.run_lanes import OfRun, RunLanes
from ppfl.engine.participants import Downlink
from ppfl.interfaces.aggregator import is_sum
from ppfl.interfaces.client_data import SampledData
from ppfl.interfaces.objective import FixedAtStart, JointObjective
from ppfl.interfaces.personal_aggregates import goes_with_others
from ppfl.interfaces.placement import MAX_MEMBERS
from ppfl.interfaces.remembering import Remembering

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from ppfl.core.types import State
    from ppfl.engine.mapping.mapping import AnyUplink
    from ppfl.engine.run import Run
    from ppfl.engine.setup import Setup

_SHARE_OF_ALLOTTED = 4
"""Part of what a pack allots to a process that clients computed together may take, where that is less than usual."""


def fits(setup: Setup) -> bool:
    """Say whether the clients of a run can be computed beside those of others: networks on a device, in rounds, under
    the mean, nobody attacking."""
    return (
        not devices.is_host(setup.device)
        and setup.communicator.size == 1
        and setup.asynchronous is None
        and setup.byzantine is None
        and not setup.loses
        and is_sum(setup.aggregator)
        and setup.client_state == "device"
        and goes_with_others(setup.algorithm)
        and isinstance(setup.problem.client_data, SampledData)
        and not isinstance(setup.problem.client_data, Remembering)
        and isinstance(setup.problem.objective, JointObjective)
        and not setup.problem.objective.is_ragged
    )


def kind_of(setup: Setup) -> Hashable:
    """Return the same for runs whose clients do the same but for numbers, where their problems are alike but for data
    and seeds."""
    problem, algorithm = setup.problem, setup.algorithm
    names = (problem.objective.parameter_names, problem.local_names)
    method = form_of(algorithm, leave_out=algorithm.server_settings)
    # constants are held once for all lanes
    fixed = problem.objective.fixed_numbers if isinstance(problem.objective, FixedAtStart) else None
    return type(problem.objective), fixed, names, method, setup.num_rounds, setup.device, setup.kernels


def most_runs(setup: Setup) -> int:
    """Return how many runs like this one the memory for clients that are computed together holds, at least one.

    What the clients of a round send waits until its run adds it up, so all of them count, whatever their chunks.
    """
    data, objective = setup.problem.client_data, setup.problem.objective
    assert isinstance(objective, JointObjective)
    largest = max(data.clients, key=lambda client: data.num_train_samples[client])
    needed = objective.bytes_of_client(data.data(largest, 0))
    if not needed:
        return 1
    allotted = budget_bytes()
    limits = [setup.bytes_together, None if allotted is None else allotted // _SHARE_OF_ALLOTTED]
    clients = [limit // needed for limit in limits if limit is not None]
    return max(min([*clients, MAX_MEMBERS]) // setup.cohort.size, 1)


class BatchedRuns:
    """Runs of one kind; entered once, after which they find their clients computed, until `forget`."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._own = {run: run.group.mapping for run in runs}
        self._handed = {run: _Handed(run) for run in runs}
        self._lanes = RunLanes()
        for run, mapping in self._handed.items():
            run.group.mapping = mapping

    def compute(self, round: int, runs: Sequence[Run]) -> None:
        """Compute what the clients of some of the runs send in a round, which these runs are to play next.

        Each is told an equal share of the seconds. Raises whatever torch or a method raise; the runs then compute their
        clients by themselves.
        """
        started = time.perf_counter()
        of_chunks: dict[int, list[OfRun]] = {}
        for run in runs:
            downlink = Downlink(run.setup.algorithm, run.server, round)
            for part in run.group.parts(run.setup.cohort(round)):
                of_chunks.setdefault(part.number, []).append(OfRun(run, part, downlink, self._own[run].inputs))
        # handed over when all is there: no run is to find only some of its clients
        found = [(parts, self._lanes.compute(round, parts)) for _, parts in sorted(of_chunks.items())]
        for parts, of_runs in found:
            for of_run, uplinks_and_states in zip(parts, of_runs, strict=True):
                self._handed[of_run.run].found[of_run.part.chunk] = uplinks_and_states
        device = runs[0].setup.device
        if device.type == "cuda":  # or the first of the runs to look at a number would wait for all of them
            torch.cuda.synchronize(device)
        share = (time.perf_counter() - started) / len(runs)
        for run in runs:
            run.ledger.costs.seconds += share
            run.ledger.spent.before += share

    def forget(self) -> None:
        """Have the runs compute their clients by themselves again; nothing is kept for them any more."""
        self._lanes = RunLanes()
        for run, mapping in self._own.items():
            run.group.mapping = mapping


class _Handed(Mapping):
    """What was computed for one run beside others; what was not, the run's own mapping computes."""

    def __init__(self, run: Run) -> None:
        self._own = run.group.mapping
        self.objective, self.setup = self._own.objective, self._own.setup
        self.algorithm, self.inputs = self._own.algorithm, self._own.inputs
        self.found: dict[range, tuple[Sequence[AnyUplink], State]] = {}

    @classmethod
    def can(cls, setup: Setup) -> bool:
        """Say no: what a run is handed, no run chooses."""
        return False

    def __call__(
        self, downlink: Downlink, chunk: range, members: Sequence[int], states: State, round: int
    ) -> tuple[Sequence[AnyUplink], State]:
        """See Mapping."""
        found = self.found.pop(chunk, None)
        if found is None:
            return self._own(downlink, chunk, members, states, round)
        if downlink.to_all is None:
            for client in members:
                downlink.to(client)  # which counts it
        return found
