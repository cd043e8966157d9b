"""What checkpoints cost: `python -m benchmarks.checkpoint_cost [CONFIG [ROUNDS]]`, also under mpiexec.

Runs some rounds of a configuration (configs/mnist20.yaml, 20 rounds) with a checkpoint after every one of them, times
each checkpoint and each question between two rounds whether one is due, and prints the share of the run's time that
both take at the interval that the configuration says (`checkpoint.every_seconds`, 300 by default):

    share = seconds a checkpoint / every_seconds + seconds a question / seconds a round
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppfl.config import load
from ppfl.engine import synchronous
from ppfl.experiment import run
from ppfl.keeper import CheckpointKeeper
from ppfl.launcher import launched_as, open_communicator
from ppfl.progress import Silent


class Timed:
    """A function that notes how long each call takes."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.seconds: list[float] = []

    def __call__(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.function(*arguments)
        finally:
            self.seconds.append(time.perf_counter() - began)


def main(path: str = "configs/mnist20.yaml", rounds: str = "20") -> None:
    every_seconds = load(path).checkpoint.every_seconds
    often = "checkpoint={every_rounds: 1, every_seconds: null}"
    config = load(path, [f"rounds={rounds}", often, "evaluate={every: 1000000, tuned: {epochs: 0}}"])
    save, ask, step = Timed(CheckpointKeeper.save), Timed(synchronous.agree), Timed(synchronous.Synchronous._round)
    CheckpointKeeper.save = lambda *arguments: save(*arguments)  # type: ignore[method-assign]
    synchronous.agree = ask  # type: ignore[assignment]
    synchronous.Synchronous._round = lambda *arguments: step(*arguments)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(dir=".") as folder:  # the disk that results are on, not one in memory
        communicator = open_communicator()
        shared = bytes(communicator.broadcast(torch.tensor(list(folder.encode().ljust(200))), 0).tolist()).decode()
        run(config, Path(shared.strip()) / "r.h5", Silent(), communicator)
    if launched_as().rank == 0 and every_seconds is not None:
        checkpoint, question, round = (float(np.median(timed.seconds)) for timed in (save, ask, step))
        print(f"{path}: {launched_as().size} rank(s), {round:.4f} seconds a round, {len(save.seconds)} checkpoints")
        print(f"a checkpoint: {checkpoint:.4f} seconds (median), {max(save.seconds):.4f} at most")
        print(f"a question: {question * 1e6:.1f} microseconds, waiting for slower ranks included")
        share = checkpoint / every_seconds + question / round
        print(f"share of the run's time with a checkpoint every {every_seconds:g} seconds: {share:.5f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
