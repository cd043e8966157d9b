"""`ppfl` with a rank that fails: `python -m mpi4py -m tests.mpi.sabotage HOW RANK ROUND run …`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from ppfl.cli import main
from ppfl.engine.group import ClientGroup
from ppfl.launcher import launched_as


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


if __name__ == "__main__":
    how, rank, from_round = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if launched_as().rank == rank:
        original = ClientGroup._data

        def data(self: ClientGroup, client: int, round: int) -> Any:
            if round >= from_round:
                fail(how)
            return original(self, client, round)

        ClientGroup._data = data  # type: ignore[method-assign]
    main(sys.argv[4:])
