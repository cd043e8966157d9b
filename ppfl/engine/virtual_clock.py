"""Asynchrony by a virtual clock: a queue of events (time, client), the same on any number of ranks."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppfl.core.agree import SharedUserError
from ppfl.core.params import flatten, num_bytes, unflatten
from ppfl.engine.arrivals import Loss, LossLog
from ppfl.engine.asynchronous import AsynchronousEngine
from ppfl.engine.checkpoint import agree, name_params, read_params
from ppfl.engine.clock import refuse_endless
from ppfl.engine.ledger import timed
from ppfl.engine.recorded import Recorded
from ppfl.interfaces.links import Links, Sizes
from ppfl.interfaces.network import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.snapshot import Snapshot
    from ppfl.core.types import Params, State
    from ppfl.engine.checkpoint import Checkpointer
    from ppfl.engine.ledger import Scored
    from ppfl.engine.mapping.mapping import Uplink
    from ppfl.engine.setup import Setup

_LOSSES = "losses"


@dataclass(frozen=True, slots=True)
class _Job:
    """θ on its way through one client."""

    number: int
    """Jobs that this client began before."""
    version: int
    message: Params | None
    """None on ranks that do not have this client."""
    started_seconds: float
    fate: Fate


class VirtualClock(AsynchronousEngine):
    """Arrivals in the order of drawn compute times, ties by client; or in the order of a recorded log.

    Every rank holds the server's state and the queue. The rank of the arriving client sends its uplink to all; the
    others compute ahead meanwhile, each one job that it will need later, so that ranks work at the same time although
    events come one after another. What a job computes depends on neither. Several ranks hold as many versions of θ as
    they have clients in flight.

    Where a network loses uplinks the server gives a job up at the timeout, and goes on as if it had arrived, without
    what was sent: the client has worked and keeps its new state. All ranks know what becomes of a job when it begins.
    """

    def __init__(self, setup: Setup, checkpointer: Checkpointer | None = None) -> None:
        super().__init__(setup, checkpointer)
        self._now = 0.0
        self._events: list[tuple[float, int]] = []
        self._in_flight: dict[int, _Job] = {}
        self._num_jobs = [0] * setup.problem.client_data.num_clients
        self._ahead: dict[int, tuple[Uplink, State]] = {}
        self._to_compute: deque[int] = deque()
        self.losses = LossLog()
        self._fates = Recorded(setup.replay, setup.replayed_losses) if setup.replay is not None else None
        self._recorded = None if setup.replay is None else {name: v.tolist() for name, v in setup.replay.items()}

    @property
    def has_losses(self) -> bool:
        """Whether jobs may be lost."""
        return self.setup.loses or self.setup.replayed_losses is not None

    def __iter__(self) -> Iterator[Scored]:
        """Run all arrivals; see AsynchronousEngine."""
        if self._done == 0:
            yield self._score(0)
            for client in self._dispatcher.starters:
                self._dispatch(client)
        for done in range(self._done + 1, self.setup.num_rounds + 1):
            with timed(self.ledger):
                self._lose(done - 1)
                finite = self._arrive(done - 1)
            if self._is_due(done, finite):
                scored = self._score(done, finite)
                yield scored
                if self.status != "running":
                    return
            if done % self.setup.cohort.size == 0 and self._stops_after(done):
                self.ledger.status = "stopped"
                return

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot; jobs that were on their way begin again."""
        super().restore(snapshot)
        numbers, communicator = snapshot.numbers, self.setup.communicator
        self._now, self._num_jobs = numbers["now"], list(numbers["num_jobs"])
        self._events = [(seconds, client) for seconds, client in numbers["events"]]
        messages: dict[str, Params] = {}
        if lost := read_params(snapshot.tensors, _LOSSES, torch.device("cpu")):
            self.losses.restore(lost)
        # snapshots of runs without a network may be older than what becomes of jobs
        for client, number, version, started_seconds, *fate in numbers["in_flight"]:
            ended = Fate(fate[0]) if fate else Fate.ARRIVED
            mine = client in self.group.clients and ended != Fate.AWAY
            name = self._name_of_message(client, version)
            if mine and name not in messages:
                messages[name] = read_params(snapshot.tensors, name, self.setup.device)
            message = messages[name] if mine else None
            self._in_flight[client] = _Job(number, version, message, started_seconds, ended)
            if mine and communicator.size > 1:
                self._to_compute.append(client)

    def _stops_after(self, done: int) -> bool:
        """Save or stop if any rank wants to; asked once in as many arrivals as clients are at work. Collective."""
        due = agree(self.checkpointer, self.setup.communicator, done)
        if self.checkpointer is not None and (due.save or due.stop):
            jobs = self._in_flight.items()
            numbers = {
                "now": self._now,
                "num_jobs": self._num_jobs,
                "events": self._events,
                "in_flight": [[m, job.number, job.version, job.started_seconds, int(job.fate)] for m, job in jobs],
            }
            messages: Params = {}
            if len(self.losses) and self.setup.communicator.rank == 0:
                log = {name: torch.from_numpy(values) for name, values in self.losses.arrays().items()}
                messages |= name_params(_LOSSES, log)
            for client, job in jobs:
                messages |= name_params(self._name_of_message(client, job.version), job.message or {})
            with self.ledger.spent.on("checkpoints"):
                self.checkpointer.save(self._snapshot(done, numbers, messages))
        return due.stop

    def _dispatch(self, client: int) -> None:
        """Send θ to a client."""
        number = self._num_jobs[client]
        self._num_jobs[client] += 1
        if self._fates is None:
            _, seconds, fate = self.setup.clock.job(client, number, self._sizes(client))
            heapq.heappush(self._events, (self._now + seconds, client))
        else:
            fate = self._fates.of(client, number)
        mine = client in self.group.clients and fate != Fate.AWAY
        message = self._message(client) if mine else None
        self._in_flight[client] = _Job(number, self.version, message, self._now, fate)
        if mine and self.setup.communicator.size > 1:
            self._to_compute.append(client)

    def _sizes(self, client: int) -> Sizes | None:
        if not isinstance(self.setup.network, Links):
            return None
        return Sizes(
            num_bytes(self._like_of_message(client, self.version)), self.setup.algorithm.uplink_bytes(self._like)
        )

    def _lose(self, position: int) -> None:
        """Give up the jobs whose time is over before the next uplink arrives, and let others, or the same, begin."""
        num_lost = 0
        while (found := self._next_loss(position)) is not None:
            self._now, client = found
            job = self._in_flight.pop(client)
            if job.message is not None:
                self._finish(client, job, arrives=False)
            self.losses.append(Loss(client, job.version, position, int(job.fate), self._now))
            self._dispatch(self._dispatcher.next(client))
            num_lost += 1
            refuse_endless(num_lost, self.setup.cohort.size)

    def _next_loss(self, position: int) -> tuple[float, int] | None:
        """Return when the next job is given up, and whose; None where an uplink arrives before."""
        if self._fates is not None:
            found = self._fates.loss(len(self.losses), position)
            if found is None:
                return None
            self._refuse_other(f"loss {len(self.losses)}", found.client, found.version)
            return found.seconds, found.client
        if self._in_flight[self._events[0][1]].fate == Fate.ARRIVED:
            return None
        return heapq.heappop(self._events)

    def _arrive(self, position: int) -> bool:
        """Let the next uplink arrive and its client, or another, go on. Returns False when it has NaN or inf."""
        self._now, client = self._next_event(position)
        job = self._in_flight.pop(client)
        uplink = self._uplink(client, job)
        if self._recorded is None:
            turnaround_seconds = self._now - job.started_seconds
        else:
            turnaround_seconds = self._recorded["turnaround_seconds"][position]
        finite = self._apply(client, job.version, uplink, self._now, turnaround_seconds)
        self._dispatch(self._dispatcher.next(client))
        return finite

    def _next_event(self, position: int) -> tuple[float, int]:
        if self._recorded is None:
            return heapq.heappop(self._events)
        client, version = self._recorded["client"][position], self._recorded["version"][position]
        self._refuse_other(f"arrival {position}", client, version)
        return self._recorded["seconds"][position], client

    def _refuse_other(self, what: str, client: int, version: int) -> None:
        """Raise SharedUserError where what is logged of a job is not so here."""
        job = self._in_flight.get(client)
        if job is None or job.version != version:
            here = f"its θ is of version {job.version}" if job else "it is not at work"
            raise SharedUserError(
                f"asynchronous.replay: {what} of the log is of client {client} with version {version}, but "
                f"here {here}: the log is of a run with other clients, concurrency, buffer, max_staleness or seed"
            )

    def _uplink(self, client: int, job: _Job) -> Params:
        """Return the uplink of a client on every rank, and keep the client's new state on its own."""
        communicator = self.setup.communicator
        if communicator.size == 1:
            return self._finish(client, job).params
        owner = self._rank_of(client)
        if communicator.rank == owner:
            params = self._finish(client, job).params
        else:
            self._compute_ahead()
            params = self._like
        if not params:
            return {}
        vector = flatten(params)
        sent = communicator.broadcast(vector.cpu(), owner).to(vector.device)
        return unflatten(sent, self._like)

    def _finish(self, client: int, job: _Job, *, arrives: bool = True) -> Uplink:
        """Let a client be as it is after its job, which is counted; return its uplink."""
        computed = self._ahead.pop(client, None)
        if computed is None:
            assert job.message is not None
            computed = self._compute(client, job.message, job.number, job.version)
        uplink, state = computed
        self._keep(client, state, uplink.report)
        if arrives:
            self._count(client, job.version, uplink.report, uplink.params)
        else:
            self.ledger.count_clients(uplink.report)
            self.ledger.count_bytes(num_bytes(self._like_of_message(client, job.version)), 0)
        return uplink

    def _compute_ahead(self) -> None:
        """Compute the job of this rank that has waited longest, if any has not been computed."""
        while self._to_compute:
            client = self._to_compute.popleft()
            job = self._in_flight.get(client)
            if job is not None and job.message is not None and client not in self._ahead:
                self._ahead[client] = self._compute(client, job.message, job.number, job.version)
                return

    def _more_costs(self) -> dict[str, float]:
        costs = {**super()._more_costs(), "virtual_seconds": self._now}
        if self.has_losses:
            away = int((self.losses.arrays()["fate"] == Fate.AWAY).sum())
            costs["lost_uplinks"] = float(len(self.losses) - away)
        return costs
