"""Workload `startup`: seconds of commands that compute nothing, and of a run from its start to its first round."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.data import ROOT
from benchmarks.launch import launcher, rank_environment
from benchmarks.options import Options, Report

REPETITIONS = 5
GRID: dict[str, Any] = {
    "name": "startup",
    "rounds": 3,
    "problem": {"name": "quadratic", "generator": "comparison"},
    "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": {"name": "exact"}},
    "grid": {"seed": list(range(20)), "problem.zeta": [0, 1, 10]},
}
_TARGETS = {"ppfl --help": 0.3, "ppfl run, to the first round": 3.0}


def measure(options: Options) -> Report:
    """Return a row for each command (best of five) and one for the fixed cost of a run (median of the slowest rank)."""
    count = 1 if options.tiny else max(REPETITIONS, options.repetitions)
    grid = options.folder / "grid.yaml"
    grid.write_text(yaml.safe_dump(GRID))
    commands = {
        "ppfl --help": ["--help"],
        "ppfl grid FILE": ["grid", str(grid)],
        "ppfl status FILE": ["status", str(grid)],
    }
    rows = [_command(name, arguments, options.folder, count) for name, arguments in commands.items()]
    rows.append(_first_round(options, count))
    return Report(rows, {}, [f"Commands: best of {count}; the run: median over {count} runs of the slowest rank."])


def _command(name: str, arguments: list[str], folder: Path, count: int) -> dict[str, Any]:
    environment = rank_environment() | {"PYTHONPATH": str(ROOT)}

    def run(*flags: str) -> tuple[float, str]:
        started = time.perf_counter()
        command = [sys.executable, *flags, "-m", "ppfl", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} ended with exit code {done.returncode}:\n{done.stderr}")
        return time.perf_counter() - started, done.stderr

    imported = {line.rpartition("|")[2].strip() for line in run("-X", "importtime")[1].splitlines()}
    seconds = [run()[0] for _ in range(count)]
    return _row(name, min(seconds), seconds) | {"imports_torch": "yes" if "torch" in imported else "no"}


def _first_round(options: Options, count: int) -> dict[str, Any]:
    config = options.folder / "run.yaml"
    config.write_text(yaml.safe_dump({key: value for key, value in GRID.items() if key != "grid"}))
    slowest = []
    for number in range(count):
        notes = options.folder / f"notes-{number}"
        notes.mkdir()
        arguments = [str(notes), "run", str(config), "--out", str(notes / "r.h5")]
        done = subprocess.run(
            [*launcher(options.ranks), "-m", "benchmarks.first_round", *arguments],
            cwd=ROOT,
            env=rank_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"ppfl run ended with exit code {done.returncode}:\n{done.stderr}")
        slowest.append(max(float(note.read_text()) for note in notes.glob("*.seconds")))
    return _row("ppfl run, to the first round", statistics.median(slowest), slowest) | {"imports_torch": "yes"}


def _row(name: str, seconds: float, repetitions: list[float]) -> dict[str, Any]:
    return {"name": name, "seconds": seconds, "target_seconds": _TARGETS.get(name), "repetitions": repetitions}


WORKLOADS = {"startup": measure}
