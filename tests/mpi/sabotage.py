"""`ppfl` with a rank that fails, or stays in a round: `python -m mpi4py -m tests.mpi.sabotage HOW RANK ROUND run …`.

HOW is `raise`, `exit`, `leave`, `memory`, a signal, or a file: the first rank to come by makes it, and goes on
when somebody has removed it or the job has been told to stop. What a test does to a job cannot come too late then,
however slow the machine is.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppfl.cli import main
from ppfl.engine.group import ClientGroup
from ppfl.engine.mapping.mapping import ClientInputs
from ppfl.jobs.launcher import launched_as


def stay(mark: Path) -> None:
    is_told_to_stop = signal.getsignal(signal.SIGTERM).__self__  # type: ignore[union-attr]  # a StopSignals
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    while mark.exists() and not is_told_to_stop():
        time.sleep(0.01)


def fail(how: str) -> None:
    if how == "raise":
        raise RuntimeError("something broke")
    if how == "exit":
        sys.exit(3)
    if how == "leave":
        os._exit(0)
    if how == "memory":
        hoard = []
        while True:
            hoard.append(bytearray(1 << 24))
    os.kill(os.getpid(), signal.Signals[how])


def prepare(how: str, from_round: int) -> None:
    """Have this process fail, or stay, when it gets to a round."""
    of_job, of_round = ClientInputs.data, ClientGroup.step
    stayed = set[str]()

    def act(round: int) -> None:
        if round >= from_round and "/" not in how:
            fail(how)
        elif round >= from_round and how not in stayed:
            stayed.add(how)
            stay(Path(how))

    def data(self: ClientInputs, client: int, round: int) -> Any:
        act(round)
        return of_job(self, client, round)

    def step(self: ClientGroup, message: Any, cohort: frozenset[int], round: int) -> Iterator[Any]:
        act(round)
        return of_round(self, message, cohort, round)

    ClientInputs.data = data  # type: ignore[method-assign]
    ClientGroup.step = step  # type: ignore[method-assign]


if __name__ == "__main__":
    if launched_as().rank == int(sys.argv[2]):
        prepare(sys.argv[1], int(sys.argv[3]))
    main(sys.argv[4:])
