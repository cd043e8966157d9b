"""`ppfl pack` whose first child stays in a round: `python -m tests.pack.staying MARK ROUND pack …`; tests.mpi.sabotage
says until when. A child that is started in its place does not."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from ppfl.cli import main
from ppfl.pack import run_queue

if TYPE_CHECKING:
    from ppfl.pack.scheduler import Work

_MARK, _ROUND = "PPFL_TEST_MARK", "PPFL_TEST_ROUND"


def make_work() -> Work:
    """Return what the children of `ppfl pack` do; called in each of them."""
    from ppfl.pack import cells
    from tests.mpi.sabotage import prepare

    prepare(os.environ[_MARK], int(os.environ[_ROUND]))
    return cells.make_work()


if __name__ == "__main__":
    os.environ[_MARK], os.environ[_ROUND] = sys.argv[1:3]
    run_queue.ONE_RANK = replace(run_queue.ONE_RANK, make_work="tests.pack.staying:make_work")
    main(sys.argv[3:])
