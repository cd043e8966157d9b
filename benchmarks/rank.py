"""One rank of a training benchmark: `python -m benchmarks.rank QUESTION ANSWER`, under mpiexec for several.

Repetitions are interleaved: a round of ppfl by all ranks, or as many as the workload says, matrix products by all ranks
at the same time, then a round of the plain way, or as many, while the ranks sleep. All this comes once before to warm
up, and the θ of both are compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.handover import difference
from benchmarks.launch import PlainProcess
from benchmarks.machine import peak_bytes, reset_peak, sgemm_gflops
from ppfl.config.run import validate
from ppfl.core.communicator import Communicator, Operation
from ppfl.engine.ledger import Scored
from ppfl.engine.synchronous import Synchronous
from ppfl.jobs.launcher import open_communicator
from ppfl.runs.assemble import build


class Rounds:
    """Rounds of ppfl, as many at a time as lie between two scores, with the seconds of one on the slowest rank."""

    def __init__(self, config: dict[str, Any], folder: Path, communicator: Communicator) -> None:
        self.communicator = communicator
        self.engine = Synchronous(build(validate(config, folder, "benchmark"), communicator))
        self._num_rounds = int(config["evaluate"]["every"])
        self._scores: Iterator[Scored] = iter(self.engine)
        self._last = next(self._scores).costs

    def next(self) -> dict[str, float | None]:
        """Do the next ones; return the seconds of one and the share that ranks spent on communication. Collective."""
        scored = next(self._scores)
        spent = {name: scored.costs[name] - self._last[name] for name in scored.costs}
        self._last = scored.costs
        if self.engine.status == "diverged":
            raise SystemExit("the run of the benchmark has diverged")
        share = None
        if "communication_seconds" in spent:
            share = self.over_ranks(spent["communication_seconds"] / spent["seconds"], "sum") / self.communicator.size
        seconds = self.over_ranks(spent["seconds"], "max") / self._num_rounds
        return {"seconds": seconds, "communication_share": share}

    def facts(self) -> dict[str, float]:
        """Return what the problem says of itself."""
        return self.engine.setup.problem.theory.facts()

    def over_ranks(self, value: float, operation: Operation) -> float:
        """Return the sum or maximum over ranks. Collective."""
        return float(self.communicator.allreduce(torch.tensor([value], dtype=torch.float64), operation))


def measure(spec: dict[str, Any], communicator: Communicator) -> dict[str, Any]:
    """Return all repetitions, the peak memory of ranks, and how far the plain way's θ is. Collective."""
    folder = Path(spec["folder"])
    rounds = Rounds(spec["config"], folder, communicator)
    handover = Path(spec["handover"]) if spec["handover"] else None
    plain = None
    if handover:
        plain = PlainProcess(handover, spec["plain_threads"], communicator.rank, spec["plain_program"])
    answer: dict[str, Any] = {"threads_of_plain": spec["plain_threads"] if plain else None}
    rounds.next()
    if plain and handover:
        plain.round()
        if communicator.rank == 0:
            answer |= difference(handover, rounds.engine.server["shared"])
    if not spec.get("peak_since_start"):
        reset_peak()
    repetitions = []
    for _ in range(spec["repetitions"]):
        communicator.barrier()
        fast = rounds.next()
        sgemm = None
        if spec["sgemm_size"]:
            communicator.barrier()
            sgemm = rounds.over_ranks(sgemm_gflops(spec["sgemm_size"], spec["sgemm_seconds"]), "sum")
        repetitions.append({**fast, "sgemm_gflops": sgemm, "plain_seconds": plain.round() if plain else None})
    if plain:
        plain.finish()
    peak = peak_bytes()
    peaks: dict[str, Operation] = {"peak_bytes": "max", "peak_bytes_of_all_ranks": "sum"}
    of_ranks = {name: int(rounds.over_ranks(peak, operation)) for name, operation in peaks.items()}
    return {**answer, **of_ranks, "repetitions": repetitions, "facts": rounds.facts()}


def main(question: str, answer: str) -> None:
    communicator = open_communicator()
    found = measure(json.loads(Path(question).read_text()), communicator)
    if communicator.rank == 0:
        Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
