"""Tasks, handed out one at a time to persistent child processes; knows nothing of what the tasks are.

A task is one or several items. A child that is killed is replaced, and its items are tried once more, one by one; so
are those of a task of several that raised. Nothing survives the parent: children end with it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ppfl.core.errors import UserError
from ppfl.jobs.failures import describe_exit
from ppfl.jobs.stopping import SIGNALS
from ppfl.pack.environment import without_ranks

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext, SpawnContext

    from ppfl.pack.budget import Budget

    AnyContext = ForkServerContext | SpawnContext

MAX_ATTEMPTS = 2
_TRACEBACK_LINES = 40
_STOP_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 0.5

Work = Callable[[Sequence[Any]], Sequence["str | Exception"]]
"""Does the items of one task; returns an answer for each, or why there is none."""


@dataclass(frozen=True)
class Task:
    """Items to do together; tasks of equal `affinity` are cheaper one after another in the same child."""

    affinity: str
    items: tuple[tuple[str, Any], ...]
    """Keys, and what the work function is given."""


@dataclass(frozen=True)
class Outcome:
    """What became of an item: the answer of the work function, or why there is none."""

    key: str
    answer: str | None
    reason: str = ""
    """One line."""
    log_tail: tuple[str, ...] = ()


class Source(Protocol):
    """Where tasks come from; may know of more later."""

    def take(self, affinity: str | None, elsewhere: set[str]) -> Task | None:
        """Return a task for a child prepared for `affinity`, others being prepared for `elsewhere`; None for now."""
        ...

    def is_exhausted(self) -> bool:
        """Say whether nothing will come any more."""
        ...


def begin_loading(make_work: str) -> None:
    """Have the module of `make_work` loaded by the process that children are forked from; nothing is waited for."""
    _context(make_work.partition(":")[0])


def run_tasks(
    source: Source,
    jobs: int,
    make_work: str,
    budget: Budget,
    idle: Callable[[], None] = lambda: None,
    *,
    spawns: bool = False,
    environment_of: Callable[[int], Mapping[str, str]] = lambda number: {},
) -> Iterator[Outcome]:
    """Do all tasks in at most `jobs` child processes; yield each outcome as it comes.

    `make_work` is "module:function": it is called once in every child and returns the work function. The module is
    loaded once for all children, and never by the parent. When the budget says so, nothing is handed out any more,
    children get SIGUSR1, and what they still are at when the time is over is given up without an outcome. `idle` is
    called again and again while there is nothing to do but to wait for tasks. `spawns`: each child is a fresh Python
    that loads everything itself, instead of a fork of one that has. `environment_of`: what the children 0, 1, … find in
    their environment beside ours; one that takes the place of another has its number.
    """
    pool = _Pool(source, jobs, make_work, environment_of, spawns=spawns)
    try:
        while (phase := budget.phase) != "end":
            if phase == "work" and budget.has_time():
                pool.hand_out()
            elif phase == "stop":
                pool.tell_to_stop()  # again and again: a child that has just been started does not listen yet
            if not pool.busy and (phase == "stop" or not budget.has_time() or pool.is_done()):
                return
            if not pool.busy:
                idle()
                time.sleep(_LOOK_AGAIN_SECONDS)
            for child in pool.ready():
                budget.took(child.seconds)
                yield from pool.collect(child)
    finally:
        pool.dismiss()


class _Pool:
    """The children, and the items that are to be tried once more."""

    def __init__(
        self,
        source: Source,
        jobs: int,
        make_work: str,
        environment_of: Callable[[int], Mapping[str, str]],
        *,
        spawns: bool,
    ) -> None:
        self._source = source
        self._environment_of = environment_of
        self._spawns = spawns
        self._jobs = jobs
        self._make_work = make_work
        self._context: AnyContext | None = None
        self._children: list[_Child] = []
        self._again: deque[Task] = deque()
        self._attempts: Counter[str] = Counter()

    @property
    def busy(self) -> list[_Child]:
        return [child for child in self._children if child.task is not None]

    def is_done(self) -> bool:
        return not self._again and self._source.is_exhausted()

    def hand_out(self) -> None:
        """Give every idle child a task, and start children while there are tasks for them."""
        idle = [child for child in self._children if child.task is None]
        while idle or len(self._children) < self._jobs:
            child = idle.pop() if idle else None
            elsewhere = {other.affinity for other in self._children if other is not child and other.affinity}
            affinity = child.affinity if child else None
            task = self._again.popleft() if self._again else self._source.take(affinity, elsewhere)
            if task is None:
                return
            if child is None:
                child = self._start()
                self._children.append(child)
            self._attempts.update(key for key, _ in task.items)
            child.give(task)

    def ready(self) -> list[_Child]:
        busy = self.busy
        found = connection.wait([child.connection for child in busy], _LOOK_AGAIN_SECONDS) if busy else []
        return [child for child in busy if child.connection in found]

    def collect(self, child: _Child) -> Iterator[Outcome]:
        """Yield what a child has done; what was not done is tried once more, or has failed."""
        task, answer = child.take()
        if isinstance(answer, list):
            yield from answer
            return
        if isinstance(answer, str):  # how it died
            self._children.remove(child)
        for key, payload in task.items:
            # one by one, so that an item which kills its process takes no other along a second time
            if self._attempts[key] < MAX_ATTEMPTS:
                self._again.append(Task(task.affinity, ((key, payload),)))
            else:
                yield Outcome(key, None, f"{answer}, {MAX_ATTEMPTS} times")

    def tell_to_stop(self) -> None:
        for child in self.busy:
            child.tell_to_stop()

    def dismiss(self) -> None:
        for child in self._children:
            child.stop()

    def _start(self) -> _Child:
        if self._context is None:
            # only when the first child is needed: a pack that finds everything done never loads torch
            module = self._make_work.partition(":")[0]
            self._context = multiprocessing.get_context("spawn") if self._spawns else _context(module)
        number = next(free for free in range(self._jobs) if all(child.number != free for child in self._children))
        environment = self._environment_of(number)
        if not self._spawns:  # a fork has the environment of the server
            return _Child(self._context, self._make_work, number, environment)
        with _environment_of_children():
            return _Child(self._context, self._make_work, number, environment)


@dataclass(eq=False)
class _Child:
    """One child process and the task that it is at."""

    context: AnyContext
    make_work: str
    number: int
    environment: Mapping[str, str]
    task: Task | None = None
    affinity: str | None = None
    connection: Connection = field(init=False)

    def __post_init__(self) -> None:
        self.connection, theirs = self.context.Pipe()
        self._process = self.context.Process(
            target=_serve, args=(theirs, self.make_work, dict(self.environment)), daemon=True
        )
        self._process.start()
        # our copy of the child's end: while it is open, the death of the child would not end the stream
        theirs.close()
        self._given_at = 0.0

    @property
    def seconds(self) -> float:
        """Since the task was handed over."""
        return time.monotonic() - self._given_at

    def give(self, task: Task) -> None:
        """Hand over a task; a child that died since is noticed by `take`."""
        self.task, self.affinity, self._given_at = task, task.affinity, time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(task)

    def take(self) -> tuple[Task, list[Outcome] | str | None]:
        """Return the task and its outcomes, None when a task of several raised, or how the process ended instead."""
        task = self.task
        assert task is not None
        self.task = None
        try:
            outcomes: list[Outcome] | None = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return task, describe_exit(self._process.exitcode or 0)
        return task, outcomes

    def tell_to_stop(self) -> None:
        """Ask the process to save what it is at."""
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGUSR1)

    def stop(self) -> None:
        """End the process: at once when it is at work, which happens only when the parent gives up."""
        self.connection.close()
        if self.task is not None:
            self._process.kill()
        # a child that waits for tasks sees the closed end and leaves by itself, its files written
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _context(preload: str) -> ForkServerContext:
    """Return how children start: forked from a server that has loaded what they need and has one thread."""
    # not `fork`: the parent of a pack would have to load torch; not `spawn`: every child would load it anew
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    with _environment_of_children():
        forkserver.ensure_running()
    return context


@contextmanager
def _environment_of_children() -> Iterator[None]:
    """One thread a process, no rank of anything, and the package that this process runs, wherever another one is.

    Signals are blocked meanwhile, and so they are for good in what is started: those that are sent to all processes of
    a terminal or of a job would end the server, and with it the knowledge of its children.
    """
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    before = dict(os.environ)
    paths = [str(Path(__file__).parents[2]), *filter(None, [before.get("PYTHONPATH")])]
    os.environ.clear()
    os.environ.update(without_ranks(before))
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(paths))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


def _serve(tasks: Connection, make_work: str, environment: Mapping[str, str]) -> None:
    """Do tasks until the parent closes its end."""
    os.environ.update(environment)  # before CUDA begins, which reads it once
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent gets them too, and decides; work may listen itself
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, _, name = make_work.partition(":")
    work: Work = getattr(importlib.import_module(module), name)()
    while True:
        try:
            task: Task = tasks.recv()
        except (EOFError, ConnectionResetError):
            return
        keys = [key for key, _ in task.items]
        try:
            # whatever it raises is an answer; what kills the process is seen by the parent as the end of the stream
            answers = work([payload for _, payload in task.items])
        except Exception as error:  # noqa: BLE001, a broken task must not take the others along
            tasks.send([_outcome(keys[0], error)] if len(keys) == 1 else None)
            continue
        tasks.send([_outcome(key, answer) for key, answer in zip(keys, answers, strict=True)])


def _outcome(key: str, answer: str | Exception) -> Outcome:
    if isinstance(answer, str):
        return Outcome(key, answer)
    tail = "".join(traceback.format_exception(answer)).splitlines()[-_TRACEBACK_LINES:]
    reason = " ".join(str(answer).split())
    if not (isinstance(answer, UserError) and reason):  # which says all in its message
        reason = f"{type(answer).__name__}: {reason}"
    return Outcome(key, None, reason, tuple(tail))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    # it ends when the parent's end of a pipe closes, however the parent died
    parent.join()
    os._exit(1)
