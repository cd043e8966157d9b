"""Run several configurations in one start of MPI: `python -m mpi4py -m tests.mpi.run_many FOLDER CONFIG…`."""

from __future__ import annotations

import sys
from pathlib import Path

from ppfl.config.run import load
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for path in map(Path, sys.argv[2:]):
        run(load(path), folder / f"{path.stem}.h5", Silent())
