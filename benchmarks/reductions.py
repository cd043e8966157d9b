"""Workload `reductions`: order-free exact sums of vectors over ranks, beside a plain float32 sum and allreduce.

Ranks run `python -m benchmarks.reductions QUESTION ANSWER`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.launch import run_ranks
from benchmarks.machine import peak_bytes, reset_peak
from benchmarks.options import Options, Report
from ppfl.core.communicator import Communicator
from ppfl.jobs.launcher import open_communicator
from ppfl.rows.exact_sum import ExactSum

DIMENSIONS = (100_000, 1_000_000, 10_000_000)
TINY_DIMENSIONS = (1_000, 10_000)
NUM_TERMS = 4
"""Vectors of each rank."""


def measure(options: Options) -> Report:
    """Return a row for each length of the vectors."""
    rows = []
    for dimension in TINY_DIMENSIONS if options.tiny else DIMENSIONS:
        spec = {"dimension": dimension, "repetitions": options.repetitions}
        found = run_ranks(options.ranks, "benchmarks.reductions", spec, options.folder)
        rows.append(_row(found, dimension, options.ranks))
    note = (
        f"Each rank adds {NUM_TERMS} vectors, then all reduce; seconds of the slowest rank. Wire bytes are those that "
        "one rank hands to MPI. plain/fast below 1 is what exactness costs."
    )
    return Report(rows, {"num_terms": NUM_TERMS}, [note])


def _row(found: dict[str, Any], dimension: int, ranks: int) -> dict[str, Any]:
    repetitions: list[dict[str, float]] = found["repetitions"]

    def median(of: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(of(repetition) for repetition in repetitions)

    def exact(repetition: dict[str, float]) -> float:
        return repetition["add"] + repetition["reduce"]

    def plain(repetition: dict[str, float]) -> float:
        return repetition["plain_add"] + repetition["plain_reduce"]

    return {
        "dimension": dimension,
        "ranks": ranks,
        "seconds_per_round": median(exact),
        "seconds_per_term": median(lambda repetition: repetition["add"] / NUM_TERMS),
        "reduce_seconds": median(lambda repetition: repetition["reduce"]),
        "wire_bytes": found["wire_bytes"],
        "plain_seconds": median(plain),
        "plain_seconds_per_term": median(lambda repetition: repetition["plain_add"] / NUM_TERMS),
        "plain_reduce_seconds": median(lambda repetition: repetition["plain_reduce"]),
        "plain_wire_bytes": 4 * dimension,
        "plain_ratio": median(lambda repetition: plain(repetition) / exact(repetition)),
        "plain_way": "a float32 sum and one allreduce of it, whose bits depend on order and ranks",
        "communication_share": median(lambda repetition: repetition["reduce"] / exact(repetition)),
        "difference_from_plain": found["difference"],
        "peak_bytes": found["peak_bytes"],
        "repetitions": repetitions,
    }


class Counting:
    """A communicator that counts the bytes of the tensors that are handed to it."""

    def __init__(self, inner: Communicator) -> None:
        self._inner = inner
        self.num_bytes = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._counted(found) if callable(found) else found

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            tensors = [value for value in (*arguments, *named.values()) if isinstance(value, torch.Tensor)]
            self.num_bytes += sum(value.numel() * value.element_size() for value in tensors)
            return method(*arguments, **named)

        return call


class Sums:
    """Both ways of one rank, and their seconds."""

    def __init__(self, communicator: Communicator, dimension: int) -> None:
        draw = torch.Generator().manual_seed(communicator.rank)
        self.communicator = communicator
        self.terms = torch.randn(NUM_TERMS, dimension, generator=draw).unbind(0)
        self.wire_bytes = 0
        self.difference = 0.0

    def repeat(self) -> dict[str, float]:
        """Return seconds of the slowest rank. Collective."""
        seconds = [*self._exact(), *self._plain()]
        slowest = self.communicator.allreduce(torch.tensor(seconds, dtype=torch.float64), "max").tolist()
        self.difference = float((self.exact - self.plain).abs().max() / self.exact.abs().max())
        return dict(zip(("add", "reduce", "plain_add", "plain_reduce"), slowest, strict=True))

    def _exact(self) -> tuple[float, float]:
        counting: Any = Counting(self.communicator)
        self.communicator.barrier()
        started = time.perf_counter()
        total = ExactSum(len(self.terms[0]))
        for term in self.terms:
            total.add(term)
        added = time.perf_counter()
        self.exact = total.reduce(counting)
        self.wire_bytes = counting.num_bytes
        return added - started, time.perf_counter() - added

    def _plain(self) -> tuple[float, float]:
        self.communicator.barrier()
        started = time.perf_counter()
        total = torch.zeros_like(self.terms[0])
        for term in self.terms:
            total += term
        added = time.perf_counter()
        self.plain = self.communicator.allreduce(total, "sum")
        return added - started, time.perf_counter() - added


def main(question: str, answer: str) -> None:
    spec = json.loads(Path(question).read_text())
    communicator = open_communicator()
    torch.set_num_threads(1)
    sums = Sums(communicator, spec["dimension"])
    sums.repeat()
    reset_peak()
    repetitions = [sums.repeat() for _ in range(spec["repetitions"])]
    peak = communicator.allreduce(torch.tensor([peak_bytes()]), "max")
    found = {"repetitions": repetitions, "wire_bytes": sums.wire_bytes, "difference": sums.difference}
    if communicator.rank == 0:
        Path(answer).write_text(json.dumps({**found, "peak_bytes": int(peak)}))


WORKLOADS = {"reductions": measure}

if __name__ == "__main__":
    main(*sys.argv[1:])
