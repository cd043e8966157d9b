"""Workload `mnist20-accuracy`: seconds of computing until 98 % of mnist20, and what bodies in bfloat16 change."""

from __future__ import annotations

import statistics
import subprocess
import time
from typing import Any

import yaml

from benchmarks.data import ROOT, data_folder
from benchmarks.launch import launcher, rank_environment
from benchmarks.options import Options, Report

GOAL = 0.98
EVERY = 5
"""Rounds from score to score."""
LATE_SCORES = 5
PRECISIONS = ("float32", "bfloat16")
TINY = {
    "problem": {
        "name": "supervised",
        "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 4, "alpha": 0.5}},
        "model": {"name": "cnn", "channels": [2, 4], "kernel_size": 3, "padding": 1, "hidden": 8},
        "split": {"local": ["head.*"]},
        "batch_size": 20,
    },
    "rounds": 4,
}


def measure(options: Options) -> Report:
    """Run the configuration of mnist20 in both precisions in turn, with a seed for each repetition."""
    found: dict[str, list[dict[str, Any]]] = {precision: [] for precision in PRECISIONS}
    for seed in range(options.repetitions):
        for precision in PRECISIONS:
            found[precision].append(_run(options, precision, seed))
    ratios = [
        one["seconds_per_round"] / other["seconds_per_round"]
        for one, other in zip(found["float32"], found["bfloat16"], strict=True)
    ]
    rows = [_row(precision, runs) for precision, runs in found.items()]
    rows[1]["float32_ratio"] = statistics.median(ratios)
    note = (
        f"Medians over {options.repetitions} seeds; accuracy: mean over clients, personal, in % at the last round, and "
        f"late: mean of the last {LATE_SCORES} scores, one every {EVERY} rounds, since one moves by half a point. "
        "Seconds to the goal and in rounds leave out start, scoring and writing; wall: "
        "of the whole `ppfl run`, from the start of its processes to their end, without a final stage `tuned`"
    )
    return Report(rows, {"dataset": "digits" if options.tiny else "mnist20"}, [note])


def _run(options: Options, precision: str, seed: int) -> dict[str, Any]:
    import h5py

    document = yaml.safe_load((ROOT / "configs" / "mnist20.yaml").read_text())
    document |= {"seed": seed, "precision": precision, "evaluate": {"every": EVERY, "tuned": {"epochs": 0}}}
    document |= {"engine": document["engine"] | {"device": "cpu"}} | (TINY if options.tiny else {})
    config, out = options.folder / "accuracy.yaml", options.folder / f"{precision}-{seed}.h5"
    config.write_text(yaml.safe_dump(document))
    started = time.perf_counter()
    done = subprocess.run(
        [*launcher(options.ranks), "-m", "ppfl", "run", str(config), "--out", str(out)],
        cwd=ROOT,
        env=rank_environment() | {"PPFL_DATA": str(data_folder())},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"ppfl run ended with exit code {done.returncode}:\n{done.stderr}")
    with h5py.File(out) as file:
        rounds = {name: file["rounds"][name][()] for name in ("round", "test_accuracy", "seconds")}
        communication = float(file["rounds"]["communication_seconds"][-1])
        spent = {name: float(value) for name, value in file["seconds"].attrs.items()}
    reached = [k for k, accuracy in enumerate(rounds["test_accuracy"]) if accuracy >= GOAL]
    seconds = float(rounds["seconds"][-1])
    return {
        "seed": seed,
        "seconds_to_goal": float(rounds["seconds"][reached[0]]) if reached else None,
        "round_of_goal": int(rounds["round"][reached[0]]) if reached else None,
        "accuracy_percent": 100.0 * float(rounds["test_accuracy"][-1]),
        "late_accuracy_percent": 100.0 * float(rounds["test_accuracy"][-LATE_SCORES:].mean()),
        "seconds_per_round": seconds / int(rounds["round"][-1]),
        "communication_share": communication / seconds,
        "seconds_in_rounds": seconds,
        "wall_seconds": wall,
        "spent_seconds": spent,
    }


def _row(precision: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    reached = [run for run in runs if run["seconds_to_goal"] is not None]
    row: dict[str, Any] = {"name": precision, "seeds_that_reached_goal": len(reached), "repetitions": runs}
    medians = ("seconds_per_round", "seconds_in_rounds", "wall_seconds", "accuracy_percent", "late_accuracy_percent")
    for key in (*medians, "communication_share"):
        row[key] = statistics.median(run[key] for run in runs)
    for key in ("seconds_to_goal", "round_of_goal"):
        row[key] = statistics.median(run[key] for run in reached) if reached else None
    return row


WORKLOADS = {"mnist20-accuracy": measure}
