"""Asynchrony by real messages: rank 0 coordinates and works for its own clients, the other ranks work for theirs."""

from __future__ import annotations

import time
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import torch

from ppfl.core.params import flatten, unflatten
from ppfl.engine.asynchronous import AsynchronousEngine
from ppfl.engine.checkpoint import name_params, read_params
from ppfl.engine.ledger import COUNTED, Ledger, summable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.communicator import Message
    from ppfl.core.snapshot import Snapshot
    from ppfl.core.types import Params, State
    from ppfl.engine.checkpoint import Checkpointer
    from ppfl.engine.ledger import Scored
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.method import Report

COORDINATOR = 0
_UNIT = 2.0**-20
"""Of counts, which travel as whole numbers."""


class _Kind(IntEnum):
    """First number of a header, and what follows it there."""

    WORK = 0
    """client, version; body: what the server sends."""
    UPLINK = 1
    """client, version, gradients of θ and of w in units of 2⁻²⁰; body: the uplink."""
    SCORE = 2
    """arrivals, 1 when all uplinks were finite."""
    GOODBYE = 3
    """nothing: no message follows."""
    SAVE = 4
    """arrivals, 1 when the run stops then."""
    STOP = 5
    """nothing: a rank was told to stop, and asks rank 0 to stop all."""
    ROW = 6
    """client, delay; body: this rank's columns of an uplink that waits for a rule."""
    STEP = 7
    """version: a rule is to look at all such rows."""


class _Work(NamedTuple):
    client: int
    version: int
    message: Params


class _Uplink(NamedTuple):
    client: int
    version: int
    report: Report
    params: Params


class _Pending(NamedTuple):
    job: int
    state: State
    report: Report


class Messages(AsynchronousEngine):
    """Uplinks are applied in the order in which they reach rank 0, whichever rank they come from.

    Rank 0 takes in all that has arrived, applies it one by one, and computes a job of its own when nothing waits or
    after as many uplinks of others as there are other ranks: none of them starves, and neither do its own clients. A
    rank works through its clients in the order in which it was sent θ for them. The new w_m of a job counts from the
    moment its uplink is applied, so that scores are those of a replay by the virtual clock.

    Rank 0 says when a snapshot is taken. Every rank then notes the θ that its clients at work were sent; after a
    restart they begin anew with it, whatever had become of these jobs.
    """

    def __init__(self, setup: Setup, checkpointer: Checkpointer | None = None) -> None:
        super().__init__(setup, checkpointer)
        self.ledger = Ledger(setup, COORDINATOR)
        num_clients = setup.problem.client_data.num_clients
        self._num_applied = torch.zeros(num_clients, dtype=torch.int64)
        self._num_jobs = [0] * num_clients
        self._pending: dict[int, _Pending] = {}
        self._work: deque[_Work] = deque()
        self._arrived: deque[_Uplink] = deque()
        self._num_served_of_others = 0
        self._sent_at_seconds: dict[int, float] = {}
        self._taken_in: dict[int, _Work] = {}
        self._asks_to_stop = False
        self._clock_start = self._clock_stopped = time.perf_counter()
        self._dtype = next((value.dtype for value in self._like.values()), torch.float32)

    def __iter__(self) -> Iterator[Scored]:
        """Run all arrivals; see AsynchronousEngine."""
        if self._done == 0:
            yield self._score(0)
        yield from self._coordinate() if self.setup.communicator.rank == COORDINATOR else self._serve()

    def _coordinate(self) -> Iterator[Scored]:
        """What rank 0 does."""
        communicator = self.setup.communicator
        self._resume_clock()
        if self._done == 0:
            for client in self._dispatcher.starters:
                self._dispatch(client)
        for done in range(self._done + 1, self.setup.num_rounds + 1):
            client, version, report, params = self._next_uplink()
            now = self._seconds()
            self._count(client, version, report, params)
            finite = self._apply(client, version, params, now, now - self._sent_at_seconds.pop(client))
            self._num_applied[client] += 1
            if done < self.setup.num_rounds:
                self._dispatch(self._dispatcher.next(client))
            if self._is_due(done, finite):
                self._stop_clock()
                for rank in range(1, communicator.size):
                    self._send(rank, [_Kind.SCORE, done, int(finite)], {})
                scored = self._score_together(done, finite)
                if self.status != "running":
                    self._say_goodbye()
                yield scored
                if self.status != "running":
                    return
                self._resume_clock()
            self._keep_up(done)
            if self.status != "running":
                return

    def _keep_up(self, done: int) -> None:
        """Have all ranks save and stop where anybody wishes so; what rank 0 does."""
        if self.checkpointer is None:
            return
        due = self.checkpointer.due(done)
        stop = due.stop or self._asks_to_stop
        if due.save or stop:
            self._stop_clock()
            for rank in range(1, self.setup.communicator.size):
                self._send(rank, [_Kind.SAVE, done, int(stop)], {})
            self._save_together(done, stop)
            self._resume_clock()

    def _serve(self) -> Iterator[Scored]:
        """What the other ranks do."""
        while True:
            told = self._take_in()
            if told is not None and told.header[0] == _Kind.SAVE:
                self._save_together(told.header[1], bool(told.header[2]))
                if self.status != "running":
                    return
            elif told is not None:
                _, done, finite = told.header
                scored = self._score_together(done, bool(finite))
                if self.status != "running":
                    self._say_goodbye()
                yield scored
                if self.status != "running":
                    return
            else:
                client, version, report, params = self._compute_next()
                counts = [round(summable(report.get(name, 0.0)) / _UNIT) for name in COUNTED]
                self._send(COORDINATOR, [_Kind.UPLINK, client, version, *counts], params)

    def _take_in(self) -> Message | None:
        """Take in all messages, waiting for one when there is no work. Returns one that asks for all ranks, if any."""
        communicator = self.setup.communicator
        if not self._asks_to_stop and self.checkpointer is not None and self.checkpointer.due(self._done).stop:
            self._asks_to_stop = True
            self._send(COORDINATOR, [_Kind.STOP], {})
        while (message := communicator.receive(self._dtype, wait=not self._work)) is not None:
            if message.header[0] in (_Kind.SCORE, _Kind.SAVE):
                self._done = message.header[1]
                return message
            if message.header[0] in (_Kind.ROW, _Kind.STEP):
                self._help(message)
                continue
            _, client, version = message.header
            self._line_up(_Work(client, version, _params(message.body, self._like_of_message(client, version))))
        return None

    def _help(self, message: Message) -> None:
        """Keep columns of an uplink, or look at all of them together with the other ranks; not on rank 0."""
        assert self._rows is not None
        kind, *numbers = message.header
        if kind == _Kind.ROW:
            client, delay = numbers
            self._rows.add(client, message.body.to(self.setup.device), delay)
        else:
            self._rows.aggregate(*numbers)  # which rank 0 makes a step of

    def _take(self, client: int, uplink: Params, delay: int) -> None:
        if self._rows is not None:
            # from rank 0 to another one messages keep their order: a rank has all rows of a step before it is asked
            vector = flatten(uplink).cpu()
            for rank in range(1, self.setup.communicator.size):
                self.setup.communicator.send(rank, [_Kind.ROW, client, delay], self._rows.columns_of(vector, rank))
        super()._take(client, uplink, delay)

    def _combined(self) -> Params:
        if self._rows is not None:
            for rank in range(1, self.setup.communicator.size):
                self._send(rank, [_Kind.STEP, self.version], {})
        return super()._combined()

    def _line_up(self, work: _Work) -> None:
        """Put a job in the line of this rank."""
        self._work.append(work)
        if self.checkpointer is not None:
            self._taken_in[work.client] = work

    def _dispatch(self, client: int) -> None:
        """Send θ to a client; a client of rank 0 is put in its own line."""
        message, rank = self._message(client), self._rank_of(client)
        self._sent_at_seconds[client] = self._seconds()
        if rank == COORDINATOR:
            self._line_up(_Work(client, self.version, message))
        else:
            self._send(rank, [_Kind.WORK, client, self.version], message)

    def _next_uplink(self) -> _Uplink:
        """Return the uplink that has waited longest; compute own ones as the class says."""
        communicator = self.setup.communicator
        while True:
            while (message := communicator.receive(self._dtype, wait=False)) is not None:
                self._hear(message)
            enough = self._num_served_of_others >= max(communicator.size - 1, 1)
            if self._work and (enough or not self._arrived):
                self._arrived.append(self._compute_next())
                self._num_served_of_others = 0
            elif self._arrived:
                uplink = self._arrived.popleft()
                self._num_served_of_others += uplink.client not in self.group.clients
                return uplink
            else:
                waited_for = communicator.receive(self._dtype, wait=True)
                assert waited_for is not None
                self._hear(waited_for)

    def _hear(self, message: Message) -> None:
        """Put an uplink in line, or note that a rank asks to stop; what rank 0 does."""
        if message.header[0] == _Kind.STOP:
            self._asks_to_stop = True
        else:
            _, client, version, *counts = message.header
            report = {name: count * _UNIT for name, count in zip(COUNTED, counts, strict=True)}
            self._arrived.append(_Uplink(client, version, report, _params(message.body, self._like)))

    def _compute_next(self) -> _Uplink:
        """Compute the job of this rank that has waited longest."""
        client, version, message = self._work.popleft()
        if client in self._pending:  # the server has applied it, or it would not have sent θ again
            done = self._pending.pop(client)
            self._keep(client, done.state, done.report)
        uplink, state = self._compute(client, message, self._num_jobs[client], version)
        self._pending[client] = _Pending(self._num_jobs[client], state, uplink.report)
        self._num_jobs[client] += 1
        return _Uplink(client, version, uplink.report, uplink.params)

    def _score_together(self, num_arrivals: int, finite: bool) -> Scored:
        """Bring all ranks up to date; score. Collective."""
        self._bring_up_to_date()
        return self._score(num_arrivals, finite)

    def _bring_up_to_date(self) -> None:
        """Give every rank the server's state and tell which uplinks it has applied. Collective."""
        communicator = self.setup.communicator
        self._num_applied = communicator.broadcast(self._num_applied, COORDINATOR)
        for client, (job, state, report) in list(self._pending.items()):
            if self._num_applied[client] > job:
                self._keep(client, state, report)
                del self._pending[client]
        self.server = {
            name: {
                key: communicator.broadcast(value.cpu().contiguous(), COORDINATOR).to(value.device)
                for key, value in group.items()
            }
            for name, group in self.server.items()
        }

    def _save_together(self, done: int, stop: bool) -> None:
        """Let the checkpointer have a snapshot, and where the run stops, end. Collective."""
        assert self.checkpointer is not None
        self._bring_up_to_date()
        at_work = torch.full((self.setup.problem.client_data.num_clients,), 0, dtype=torch.int64)
        at_work[list(self._sent_at_seconds)] = 1
        at_work = self.setup.communicator.broadcast(at_work, COORDINATOR)
        mine = [work for client, work in self._taken_in.items() if at_work[client]]
        messages: Params = {}
        for work in mine:
            messages[f"at_work/{work.client}"] = torch.tensor(work.version)
            messages |= name_params(self._name_of_message(work.client, work.version), work.message)
        numbers = {"num_applied": self._num_applied.tolist(), "sent_at": list(self._sent_at_seconds.items())}
        with self.ledger.spent.on("checkpoints"):
            self.checkpointer.save(self._snapshot(done, numbers, messages))
        if stop:
            self.ledger.status = "stopped"
            self._say_goodbye()

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot; jobs that were on their way begin again."""
        super().restore(snapshot)
        tensors = snapshot.tensors
        versions = {client: tensors.get(f"at_work/{client}") for client in self.group.clients}
        numbers = snapshot.numbers
        self._num_jobs = list(numbers["num_applied"])
        self._num_applied = torch.tensor(self._num_jobs, dtype=torch.int64)
        for client, version in versions.items():
            if version is not None:
                message = read_params(tensors, self._name_of_message(client, int(version)), self.setup.device)
                self._line_up(_Work(client, int(version), message))
        if self.setup.communicator.rank == COORDINATOR:
            self._sent_at_seconds = dict(numbers["sent_at"])
        self._clock_start = self._clock_stopped - self.ledger.costs.seconds

    def _say_goodbye(self) -> None:
        """Receive everything that is still under way, so that no message is left when the program ends. Collective."""
        communicator = self.setup.communicator
        others = communicator.size - 1 if communicator.rank == COORDINATOR else 1
        for rank in range(1, communicator.size) if communicator.rank == COORDINATOR else [COORDINATOR]:
            self._send(rank, [_Kind.GOODBYE], {})
        while others:
            message = communicator.receive(self._dtype, wait=True)
            assert message is not None
            others -= message.header[0] == _Kind.GOODBYE
        communicator.finish_sending()

    def _send(self, rank: int, header: list[int], params: Params) -> None:
        body = flatten(params).cpu() if params else torch.zeros(0, dtype=self._dtype)
        self.setup.communicator.send(rank, header, body)

    def _seconds(self) -> float:
        """Wall-clock seconds since the start, without those of scoring and writing."""
        return time.perf_counter() - self._clock_start

    def _stop_clock(self) -> None:
        self._clock_stopped = time.perf_counter()
        self.ledger.costs.seconds = self._seconds()
        self.ledger.costs.communication_seconds += self.setup.communicator.seconds - self._communicated

    def _resume_clock(self) -> None:
        self._clock_start += time.perf_counter() - self._clock_stopped
        self._communicated = self.setup.communicator.seconds


def _params(body: torch.Tensor, like: Params) -> Params:
    return unflatten(body.to(next(iter(like.values())).device), like) if like else {}
