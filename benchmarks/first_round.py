"""`python -m benchmarks.first_round FOLDER run CONFIG …`: `ppfl run`, which notes when its first round begins.

Each rank writes the seconds from the start of its process to FOLDER/<rank>.seconds. Nothing is imported before ppfl
asks for it, since a rank forks before torch is loaded.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppfl.engine.run import Run

STARTED = time.monotonic()


def age() -> float:
    """Return the seconds since this process was started, to 10 ms."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


class NotesFirstRound(MetaPathFinder):
    """Has the engine note its first round as soon as ppfl imports the module that runs experiments."""

    def __init__(self, folder: Path, age_at_start: float) -> None:
        self._folder = folder
        self._age_at_start = age_at_start

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Find nothing, ever."""
        if name == "ppfl.runs.experiment":
            sys.meta_path.remove(self)
            self._wrap()

    def _wrap(self) -> None:
        from ppfl.engine import synchronous
        from ppfl.jobs.launcher import launched_as

        original = synchronous.play_round

        def noting(runs: Sequence[Run], round: int) -> list[bool]:
            if round == 0:
                seconds = self._age_at_start + time.monotonic() - STARTED
                (self._folder / f"{launched_as().rank}.seconds").write_text(str(seconds))
            return original(runs, round)

        synchronous.play_round = noting


if __name__ == "__main__":
    sys.meta_path.insert(0, NotesFirstRound(Path(sys.argv[1]), age()))
    from ppfl.cli import main

    sys.argv = ["ppfl", *sys.argv[2:]]
    main()
