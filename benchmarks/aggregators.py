"""Workload `aggregators`: every rule on one N×D matrix, one process of one thread, beside a sort of the matrix.

Seconds are with the allocator of a run, memory with glibc's own, which gives back what was freed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.data import ROOT
from benchmarks.launch import rank_environment
from benchmarks.machine import peak_bytes, reset_peak, resident_bytes
from benchmarks.options import Options, Report
from ppfl.comm.solo import SoloCommunicator
from ppfl.core.plugins import PlugIn, discover
from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.pre_aggregator import RandomKey
from ppfl.rows.client_matrix import ClientMatrix
from ppfl.runs.device import keep_freed_memory

NUM_VECTORS, DIMENSION = 50, 1_000_000
TINY_DIMENSION = 20_000
_F = 10
_TINY = ("median", "nnm + trimmed_mean", "clipping + mean")
# On the machine of the figures to beat a sort of the matrix along N took about 1.4 s: "torch.sort and kthvalue along N
# are 7× slower" than a median of 0.19 s. A target is 1.3 times the figure, as a ratio to that sort.
SECONDS_OF_SORT, TOLERANCE = 1.4, 1.3
MOST_EXTRA = 0.3
"""Extra memory at most, as a share of the matrix; a target for the same rules."""


@dataclass(frozen=True)
class Case:
    """A rule with its arguments and what comes before it, and the seconds that were found possible."""

    arguments: dict[str, Any]
    before: list[dict[str, Any]] = field(default_factory=list)
    possible_seconds: float | None = None

    def rule(self, name: str) -> Aggregator:
        """Return the rule, e.g. of `nnm + trimmed_mean` or `centered_clipping, one step from 0`."""
        own = name.rsplit(" + ", 1)[-1].split(", ")[0]
        document = {"name": own, **self.arguments, "before": self.before}
        return discover("ppfl.aggregators")[own].model_validate(document)  # type: ignore[return-value]

    @property
    def target_ratio(self) -> float | None:
        """Seconds of the rule over seconds of the sort, at most; None without a target."""
        return None if self.possible_seconds is None else self.possible_seconds / SECONDS_OF_SORT * TOLERANCE


def cases() -> dict[str, Case]:
    """Return every rule by name, those with a target first; what comes before a rule is measured in a chain."""
    targets = {
        "median": Case({}, possible_seconds=0.19),
        "trimmed_mean": Case({"f": _F}, possible_seconds=0.23),
        "krum": Case({"f": _F}, possible_seconds=0.13),
        "geometric_median": Case({}, possible_seconds=0.095),
        # the figure stands beside ByzFL's 0.25 s, whose rule begins at 0 and takes one step unless told otherwise
        "centered_clipping, one step from 0": Case(
            {"radius": 1000.0, "steps": 1, "start": "zero"}, possible_seconds=0.022
        ),
        "nnm + trimmed_mean": Case({"f": _F}, [{"name": "nnm", "f": _F}], possible_seconds=0.36),
        "caf": Case({"f": _F}, possible_seconds=0.14),
    }
    others = {"centered_clipping": Case({"radius": 1000.0})}
    for name, rule in discover("ppfl.aggregators").items():
        if name not in targets and name not in others:
            others[name] = Case(_example(rule))
    for name, step in discover("ppfl.pre_aggregators").items():
        if name != "nnm":
            # rows of a million standard normal numbers are about 1000 long
            arguments = {"threshold": 1000.0} if name == "clipping" else _example(step)
            others[f"{name} + mean"] = Case({}, [{"name": name, **arguments}])
    return {**targets, **others}


def _example(kind: type[PlugIn]) -> dict[str, Any]:
    """Return its example, for ten Byzantine vectors."""
    return {**kind.example, **({"f": _F} if "f" in kind.model_fields else {})}


def measure(options: Options) -> Report:
    """Interleave every rule with the sort; then measure the memory of each in a process of its own."""
    dimension = TINY_DIMENSION if options.tiny else DIMENSION
    torch.set_num_threads(1)
    keep_freed_memory()
    x = vectors(dimension)
    chosen = {name: case for name, case in cases().items() if not options.tiny or name in _TINY}
    rows = []
    for name, case in chosen.items():
        rule = case.rule(name)
        repetitions = [_repetition(x, rule) for _ in range(options.repetitions + 1)][1:]
        extra = _extra_bytes(name, dimension)
        rows.append(
            {
                "name": name,
                "num_vectors": NUM_VECTORS,
                "dimension": dimension,
                "seconds": statistics.median(repetition["seconds"] for repetition in repetitions),
                "sort_seconds": statistics.median(repetition["sort_seconds"] for repetition in repetitions),
                "ratio_to_sort": statistics.median(repetition["ratio_to_sort"] for repetition in repetitions),
                "target_ratio": case.target_ratio,
                "extra_bytes": extra,
                "extra_share": extra / (4 * NUM_VECTORS * dimension),
                "repetitions": repetitions,
            }
        )
    note = (
        f"Targets: {TOLERANCE} times the figure found possible, as a ratio to torch.sort(x, dim=0), {SECONDS_OF_SORT} "
        f"seconds there; extra memory at most {100 * MOST_EXTRA:.0f} % of the matrix. One process of one thread."
    )
    arguments = {name: _settings(case) for name, case in chosen.items()}
    return Report(rows, {"threads": 1, "arguments": arguments}, [note], ranks=1)


def vectors(dimension: int) -> torch.Tensor:
    """Return the matrix: vectors of clients that agree on something, and differ as much."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(NUM_VECTORS, dimension, generator=draw) + torch.randn(dimension, generator=draw)


def _settings(case: Case) -> dict[str, Any]:
    return {**case.arguments, **({"before": case.before} if case.before else {})}


def _repetition(x: torch.Tensor, rule: Aggregator) -> dict[str, float]:
    def seconds(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    sort = seconds(lambda: torch.sort(x, dim=0))
    own = seconds(lambda: apply(x, rule))
    return {"seconds": own, "sort_seconds": sort, "ratio_to_sort": own / sort}


def apply(x: torch.Tensor, rule: Aggregator) -> torch.Tensor:
    """Aggregate as an engine does that has the columns of the matrix: a fresh one, nothing known of it."""
    return rule(ClientMatrix(SoloCommunicator(), x, x.shape[1]), RandomKey(seed=0))


def _extra_bytes(name: str, dimension: int) -> int:
    """Return the peak above the input in a fresh process, which loads the code by a small matrix first."""
    command = [sys.executable, "-m", "benchmarks.aggregators", name, str(dimension)]
    done = subprocess.run(command, cwd=ROOT, env=rank_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the memory of {name} could not be measured:\n{done.stderr}")
    return int(json.loads(done.stdout))


def print_extra_bytes(name: str, dimension: str) -> None:
    """Print the extra bytes of one rule; the body of that process."""
    torch.set_num_threads(1)
    rule = cases()[name].rule(name)
    apply(vectors(TINY_DIMENSION), rule)
    x = vectors(int(dimension))
    reset_peak()
    before = resident_bytes()
    apply(x, rule)
    print(json.dumps(max(0, peak_bytes() - before)))


WORKLOADS = {"aggregators": measure}

if __name__ == "__main__":
    print_extra_bytes(*sys.argv[1:])
