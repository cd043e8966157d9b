"""One of several runs that a child was given together, from its claim to its result."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ppfl.comm.solo import SoloCommunicator
from ppfl.jobs.claim import is_claimed
from ppfl.pack.run_queue import CLAIMED
from ppfl.results.layout import apart_path, checkpoint_path
from ppfl.runs.assemble import build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from ppfl.engine.evaluate import Stages
    from ppfl.engine.setup import Setup
    from ppfl.jobs.attempt import Attempt
    from ppfl.pack.run_queue import RunOfCell
    from ppfl.runs.assemble import BuildProblem


@dataclass(eq=False)
class Guest:
    """A run, and how far it is."""

    run: RunOfCell
    attempt: Attempt
    setup: Setup | None = None
    answer: str | Exception | None = None
    """None: not done, and to be done alone."""
    start_seconds: float = 0.0
    """That it took to enter and to build it."""
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    """Scores and costs, (rounds, …), and "round"."""
    stages: Stages | None = None

    def safely(self, action: Callable[[], None]) -> None:
        """Do something that may fail; a failure is noted, and is this run's alone."""
        try:
            action()
        except Exception as error:  # noqa: BLE001, one run must not take the others along
            self.attempt.note(error, 0)
            self.answer = CLAIMED if is_claimed(error) else error

    def enter(self, build_problem: BuildProblem, ready: set[Path]) -> None:
        """Claim the result and build the run, unless it is done, or has a checkpoint from which it goes on alone.

        ready: folders that take files; this one's joins them.
        """
        out = self.run.out
        if checkpoint_path(out).exists() or checkpoint_path(apart_path(out)).exists():
            return
        found = self.attempt.enter(ready)
        # tried once for all: a file system takes as long for such a file as for all others that a run makes
        ready.add(out.parent)
        if found in ("already done", "stopped"):
            self.answer = found
            return
        began = time.perf_counter()
        self.attempt.told(0)
        try:
            self.setup = build(self.run.config, SoloCommunicator(), build_problem)
        except torch.OutOfMemoryError:  # of the device, for the data of all of them: alone it may find enough
            return
        self.start_seconds = time.perf_counter() - began
