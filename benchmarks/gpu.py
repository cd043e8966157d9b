"""Workload `gpu`: all that is to be known of one card, in one command of at most 8 minutes.

Each part is a process of its own, so that what one leaves on the card, or breaks, is nothing to the next, and one that
takes too long is ended. Its rows are kept as they come.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.data import ROOT
from benchmarks.launch import rank_environment
from benchmarks.options import Options, Report

MOST_SECONDS = 460.0
"""Of all parts together; what comes before and after them is within 8 minutes, too."""
_LEAST_SECONDS = 15.0
"""A part that has less is not begun: Python, torch and CUDA take most of it."""
_SAVED_SECONDS = 8.0
"""Of the seconds of a part, those before its own clock: loading torch, and CUDA's beginning."""


@dataclass(frozen=True)
class Part:
    """One process."""

    name: str
    """A check, or a workload of benchmarks/gpu_rounds.py."""
    seconds: float
    """At most."""
    table: str = ""
    """Where its rows go; "" for the table of rounds."""


PARTS = (
    Part("ceilings", 40, "Ceilings"),
    Part("equality", 75, "Equality with the CPU"),
    Part("mnist20-ffgg", 60),
    Part("femnist-fedavg", 75),
    Part("thousand-ffgg", 75),
    Part("determinism", 70, "Determinism"),
    Part("robust", 35),
    Part("quadratic", 30),
)
"""What matters most comes first."""


@dataclass
class Found:
    """What is known so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, part: Part, row: dict[str, Any]) -> None:
        """Take a row of a part, or facts."""
        if "facts" in row:
            self.facts |= row["facts"]
        elif part.table:
            self.tables.setdefault(part.table, []).append(row)
        else:
            self.rows.append(row)

    def report(self) -> Report:
        """Return it with what rows say of each other: shares of ceilings, speedups, targets."""
        ceilings = {row["precision"]: row["gflops"] for row in self.tables.get("Ceilings", []) if "gflops" in row}
        rows = [judged(row, self.rows, ceilings) for row in self.rows]
        return Report(rows, self.facts, [*self.notes, *summary(rows, self.tables), *LEFT_OUT], 1, self.tables)


LEFT_OUT = (
    """
Seconds of a round leave out start, reading of data, scores, stages, checkpoints and writing; they end when the card has
done everything. They are medians, and the first two rounds do not count.

The data are made up, of the right shapes. GFLOP/s count products of layers alone, by benchmarks/flops.py. The ceiling
is a product of 8,192 × 8,192 matrices in the number type of the run, which the small products of a layer would not
reach by themselves either; it speaks of arithmetic, not of memory. With bfloat16 the last layer is in float32 all the
same.

Kernels and copies to the host are those of one more round under torch's profiler, and not counted where a round takes
more than half a second. The peak is that of torch's allocator, without the context of CUDA and the code of kernels.

*deterministic: no* leaves torch's choice of kernels; CUBLAS_WORKSPACE_CONFIG is the same in both.

Equality and determinism are of θ after three rounds of a small network on five clients of 18 to 38 images.
""".strip()
    .replace("\n\n", "\f")
    .replace("\n", " ")
    .split("\f")
)
"""What the figures do not say."""


def judged(row: dict[str, Any], rows: list[dict[str, Any]], ceilings: dict[str, float]) -> dict[str, Any]:
    """Return a row of rounds with its share of the ceiling, its speedup over K = 1, and whether it meets its target."""
    if "seconds_per_round" not in row:
        return row
    like = ("workload", "precision", "deterministic")
    alone = [
        one["seconds_per_round"]
        for one in rows
        if one["clients_per_chunk"] == 1 and "seconds_per_round" in one and all(one[key] == row[key] for key in like)
    ]
    ceiling, gflops = ceilings.get(row["precision"]), row["gflops"]
    found = {
        "share_of_ceiling": None if ceiling is None or gflops is None else gflops / ceiling,
        "speedup_over_one": alone[0] / row["seconds_per_round"] if alone else None,
    }
    return {**row, **found, "meets_target": _meets({**row, **found})}


def _meets(row: dict[str, Any]) -> bool | None:
    """Return whether all clients at once are as fast as is wanted; None where nothing is, or nothing could be said."""
    target = row["target"]
    is_judged = (
        row["clients_per_chunk"] == row["num_clients"] and row["precision"] == "float32" and row["deterministic"]
    )
    if not target or not is_judged:
        return None
    (name, limit), *_ = target.items()
    bound, _, key = name.partition("_")
    value = row["seconds_per_round"] if key == "seconds" else row[key]
    if value is None:
        return None
    return bool(value <= limit if bound == "most" else value >= limit)


def summary(rows: list[dict[str, Any]], tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Say in words whether checks hold and targets are met, and what was not run."""
    equality, determinism = (tables.get(title, []) for title in ("Equality with the CPU", "Determinism"))
    compared = [row for row in equality if "difference" in row]
    far = [row for row in compared if not row["difference"] <= row["largest_allowed"]]
    repeated = [row for row in determinism if "same_again" in row]
    unlike = [row for row in repeated if not (row["same_again"] and row.get("same_on_two_ranks", True))]
    lines = [
        f"Equality: {len(compared) - len(far)} of {len(compared)} that could be compared are as near as allowed.",
        f"Determinism: {len(repeated) - len(unlike)} of {len(repeated)} that could be repeated have the same bytes.",
    ]
    for row in rows:
        if row.get("meets_target") is not None:
            verdict = "met" if row["meets_target"] else "missed"
            (name, limit), *_ = row["target"].items()
            lines.append(f"Target of *{row['workload']}*, {name.replace('_', ' ')} {limit:g}: {verdict}.")
    undetermined = sorted({name for row in rows for name in row.get("undetermined", [])})
    if undetermined:
        lines.append(f"Without deterministic kernels in torch: {', '.join(undetermined)}.")
    skipped = [row for row in [*rows, *equality, *determinism] if "not_run" in row]
    return [*lines, f"Not run: {len(skipped)} rows, which say why."] if skipped else lines


def measure(options: Options) -> Report:
    """Run all parts, each in the time that is left; keep what is known after each of them."""
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("no card here, or a torch without CUDA; --device cpu --tiny shows that it works")
        # whoever ends this process, e.g. `timeout`, means the parts as well
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    found, until = Found(), time.monotonic() + MOST_SECONDS
    for part in PARTS:
        seconds = min(part.seconds, until - time.monotonic())
        if seconds < _LEAST_SECONDS:
            found.notes.append(f"{part.name}: not run: time.")
        else:
            spec = {
                "part": part.name,
                "device": options.device,
                "tiny": options.tiny,
                "folder": str(options.folder),
                "seconds": seconds if options.tiny else seconds - _SAVED_SECONDS,
            }
            run = _in_this_process if options.tiny else partial(in_a_process, seconds=seconds)
            if end := run(spec, partial(found.add, part)):
                found.notes.append(f"{part.name}: {end}.")
        options.save(found.report())
    return found.report()


def _in_this_process(spec: dict[str, Any], add: Callable[[dict[str, Any]], None]) -> str:
    from benchmarks.gpu_part import do

    do(spec, add)
    return ""


def in_a_process(
    spec: dict[str, Any], add: Callable[[dict[str, Any]], None], seconds: float, module: str = "benchmarks.gpu_part"
) -> str:
    """Run a part by itself, for some seconds at most; return how it ended, "" when it did all."""
    answer = Path(spec["folder"], f"{spec['part']}.jsonl")
    answer.unlink(missing_ok=True)
    # a group of its own, so that ranks which it started end with it
    process = subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(spec), str(answer)],
        cwd=ROOT,
        env=rank_environment(),
        stdout=sys.stderr,
        start_new_session=True,
    )
    try:
        code = process.wait(seconds)
        end = "" if code == 0 else f"ended with exit code {code}, what came before it stands"
    except subprocess.TimeoutExpired:
        end = f"ended after {seconds:.0f} s; not run: the rest, time"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for line in answer.read_text().splitlines() if answer.exists() else []:
        add(json.loads(line))
    return end


WORKLOADS = {"gpu": measure}
