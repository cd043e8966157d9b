"""What checkpoints cost: `python -m benchmarks.checkpoint_cost [CONFIG [ROUNDS]]`, also under mpiexec.

Runs some rounds of a configuration (configs/mnist20.yaml, 20 rounds) with a checkpoint after every one of them, times
each checkpoint and each question between two rounds whether one is due, and prints the share of the run's time that
both take at the interval that the configuration says (`checkpoint.every_seconds`, 300 by default):

    share = seconds a checkpoint / every_seconds + seconds a question / seconds a round

`python -m benchmarks.checkpoint_cost memory` runs a network with 156 MB of client states, kept in memory and in a file,
plainly, with checkpoints, from a checkpoint, and with `save.local`, and prints how much higher the peak of memory is
than that of the plain run, in multiples of the states: about two minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppfl.config.run import load
from ppfl.engine import synchronous
from ppfl.jobs.launcher import launched_as, open_communicator
from ppfl.runs.checkpointer import FileCheckpointer
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent

STATES_BYTES = 60 * 65 * 10_000 * 4
LARGE_STATES = """
name: mem
rounds: 2
problem:
  name: supervised
  dataset: {name: digits, partition: {name: iid, clients: 60}}
  model: {name: mlp, hidden: [10000]}
  split: {local: ["hidden1.*"]}
  batch_size: 8
algorithm: {name: ffgg, lr: 0.1, fine_tuner: {name: gradient_descent, steps: 1, lr: 0.1}}
evaluate: {every: 2, tuned: {epochs: 0}}
checkpoint: {every_seconds: null}
"""


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
    save, ask, step = Timed(FileCheckpointer.save), Timed(synchronous.agree), Timed(synchronous.play_round)
    FileCheckpointer.save = lambda *arguments: save(*arguments)  # type: ignore[method-assign]
    synchronous.agree = ask  # type: ignore[assignment]
    synchronous.play_round = step  # type: ignore[assignment]
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


def memory() -> None:
    """Compare peaks of processes, each of which runs once."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        (folder / "m.yaml").write_text(LARGE_STATES, encoding="utf-8")
        print("| `client_state` | plain (MB) | with checkpoints | from a checkpoint | with `save.local` |")
        print("|---|---|---|---|---|")
        for kind in ("device", "file"):
            often = "checkpoint.every_rounds=1"
            plain = _peak(folder, kind, "plain")
            peaks = [_peak(folder, kind, "saved", often)]
            stopped = _peak(folder, kind, "from", often, "rounds=3", stop=True)
            assert stopped
            peaks += [_peak(folder, kind, "from", often, "rounds=3"), _peak(folder, kind, "local", "save.local=true")]
            extra = " | ".join(f"{(peak - plain) / STATES_BYTES:+.2f}" for peak in peaks)
            print(f"| {kind} | {plain / 1e6:.0f} | {extra} |", flush=True)


def _peak(folder: Path, kind: str, name: str, *settings: str, stop: bool = False) -> int:
    """Return the largest memory of one run in bytes; `stop` kills it when it has a checkpoint."""
    out = folder / f"{kind}-{name}.h5"
    words = [f"engine.client_state={kind}", *settings]
    command = [sys.executable, "-m", "ppfl", "run", str(folder / "m.yaml"), "--out", str(out)]
    with subprocess.Popen([*command, *(word for text in words for word in ("--set", text))], stdout=-3) as process:
        while stop and not (out.with_name(f"{out.name}.checkpoint") / "current.json").exists():
            time.sleep(0.01)
        if stop:
            process.kill()
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    memory() if sys.argv[1:] == ["memory"] else main(*sys.argv[1:])
