"""Tasks, handed out one at a time to persistent child processes; knows nothing of what the tasks are.

A child that is killed is replaced, and its task is tried once more. Nothing survives the parent: children end with it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext

MAX_ATTEMPTS = 2
_TRACEBACK_LINES = 40
_STOP_SECONDS = 5.0

Work = Callable[[Any], str]


@dataclass(frozen=True)
class Task:
    """Something to do; tasks of equal `affinity` are cheaper one after another in the same child."""

    key: str
    affinity: str
    payload: Any


@dataclass(frozen=True)
class Outcome:
    """What became of a task: the answer of the work function, or why there is none."""

    key: str
    answer: str | None
    failure: str = ""


def run_tasks(tasks: Sequence[Task], jobs: int, make_work: str) -> Iterator[Outcome]:
    """Do all tasks in at most `jobs` child processes; yield each outcome as it comes.

    `make_work` is "module:function": it is called once in every child and returns what does one task, given its
    payload. The module is loaded once for all children, and never by the parent. A task whose work raises has failed;
    one whose child dies is tried once more.
    """
    queue = list(tasks)
    attempts = dict.fromkeys((task.key for task in tasks), 0)
    context = _context(make_work.partition(":")[0])
    children = [_Child(context, make_work) for _ in range(min(jobs, len(queue)))]
    try:
        while True:
            for child in children:
                if child.task is None and queue:
                    task = _next_task(queue, child, children)
                    attempts[task.key] += 1
                    child.give(task)
            busy = [child for child in children if child.task is not None]
            if not busy:
                return
            ready = connection.wait([child.connection for child in busy])
            for child in [child for child in busy if child.connection in ready]:
                task, outcome = child.take()
                if isinstance(outcome, Outcome):
                    yield outcome
                    continue
                children[children.index(child)] = _Child(context, make_work)
                if attempts[task.key] < MAX_ATTEMPTS:
                    queue.insert(0, task)
                else:
                    yield Outcome(task.key, None, f"{outcome}, {MAX_ATTEMPTS} times")
    finally:
        for child in children:
            child.stop()


def _next_task(queue: list[Task], child: _Child, children: Sequence[_Child]) -> Task:
    """Take what this child is prepared for, else what no other child is prepared for, else the first task."""
    elsewhere = {other.affinity for other in children if other is not child}
    wanted = [task for task in queue if task.affinity == child.affinity]
    wanted += [task for task in queue if task.affinity not in elsewhere]
    chosen = (wanted or queue)[0]
    queue.remove(chosen)
    return chosen


@dataclass
class _Child:
    """One child process and the task that it is at."""

    context: ForkServerContext
    make_work: str
    task: Task | None = None
    affinity: str | None = None
    connection: Connection = field(init=False)

    def __post_init__(self) -> None:
        self.connection, theirs = self.context.Pipe()
        self._process = self.context.Process(target=_serve, args=(theirs, self.make_work), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        """Hand over a task; a child that died since is noticed by `take`."""
        self.task, self.affinity = task, task.affinity
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(task)

    def take(self) -> tuple[Task, Outcome | str]:
        """Return the task and its outcome, or how the process ended instead."""
        task = self.task
        assert task is not None
        self.task = None
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return task, _how_it_ended(self._process.exitcode)
        return task, outcome

    def stop(self) -> None:
        """End the process: at once when it is at work, which happens only when the parent gives up."""
        self.connection.close()
        if self.task is not None:
            self._process.kill()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"the process ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"the process was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"


def _context(preload: str) -> ForkServerContext:
    """Return how children start: forked from a server that has loaded what they need and has one thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    with _environment_of_children():
        forkserver.ensure_running()
    return context


@contextmanager
def _environment_of_children() -> Iterator[None]:
    """One thread a process, and the package that this process runs, wherever else another one is installed."""
    before = dict(os.environ)
    paths = [str(Path(__file__).parents[2]), *filter(None, [before.get("PYTHONPATH")])]
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(paths))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(tasks: Connection, make_work: str) -> None:
    """Do tasks until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, _, name = make_work.partition(":")
    work: Work = getattr(importlib.import_module(module), name)()
    while True:
        try:
            task: Task = tasks.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            outcome = Outcome(task.key, work(task.payload))
        except Exception as error:  # noqa: BLE001, a broken task must not take the others along
            tail = "".join(traceback.format_exception(error)).splitlines()[-_TRACEBACK_LINES:]
            outcome = Outcome(task.key, None, "\n".join([f"{type(error).__name__}: {error}", "", *tail]))
        tasks.send(outcome)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
