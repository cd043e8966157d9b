"""Workload `memory`: very many clients with local parameters of their own, few of them a round."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.data import WrittenData, equal_clients
from benchmarks.launch import run_ranks
from benchmarks.options import Options, Report

NUM_CLIENTS, COHORT = 100_000, 100
SAMPLES, SIDE, NUM_CLASSES, HIDDEN = 2, 8, 62, 161
"""A head of 161·62 + 62 = 10,044 local parameters, on 8×8 images."""


def measure(options: Options) -> Report:
    """Return a row for each number of clients, with the same cohort, and for each cohort, with the fewest clients."""
    most = options.clients or (40 if options.tiny else NUM_CLIENTS)
    cohort = max(2, min(COHORT, most // 10))
    fewest = most // 4
    cells = [(most, cohort), (most // 2, cohort), (fewest, cohort), (fewest, cohort // 2), (fewest, 2 * cohort)]
    files: dict[int, WrittenData] = {}
    rows = []
    for clients, size in cells:
        if clients not in files:
            files = {clients: _write(options.folder, clients)}
        rows.append(_row(files[clients], clients, size, options))
    local_bytes = [row["num_local_parameters"] * 4 * row["clients"] for row in rows]
    note = (
        f"All local parameters together are {local_bytes[0] / 1e9:.2f} GB in the first row. Peak: of a process since "
        "its start, loading included, summed over ranks. Seconds of a round: without scoring, mean of one block of "
        "rounds. The first three rows differ in clients outside the cohort, the last three in the cohort."
    )
    return Report(rows, {"samples_per_client": SAMPLES, "image": [SIDE, SIDE]}, [note])


def _write(folder: Path, clients: int) -> WrittenData:
    for path in folder.glob("equal-*.h5"):
        path.unlink()
    return equal_clients(folder, clients, SAMPLES, SIDE, NUM_CLASSES)


def _row(data: WrittenData, clients: int, cohort: int, options: Options) -> dict[str, Any]:
    rounds = options.repetitions
    spec = {
        "config": _config(data, cohort, rounds),
        "folder": str(options.folder),
        "handover": None,
        "repetitions": 1,
        "sgemm_size": None,
        "peak_since_start": True,
    }
    started = time.perf_counter()
    found = run_ranks(options.ranks, "benchmarks.rank", spec, options.folder)
    seconds = statistics.median(block["seconds"] for block in found["repetitions"])
    return {
        "clients": clients,
        "cohort": cohort,
        "ranks": options.ranks,
        "seconds_per_round": seconds,
        "microseconds_per_sample": seconds / (cohort * SAMPLES) * 1e6,
        "milliseconds_per_client": seconds / cohort * 1e3,
        "peak_bytes": found["peak_bytes_of_all_ranks"],
        "largest_rank_bytes": found["peak_bytes"],
        "num_local_parameters": int(found["facts"]["num_local_parameters"]),
        "seconds_in_all": time.perf_counter() - started,
        "communication_share": found["repetitions"][0]["communication_share"],
        "repetitions": found["repetitions"],
    }


def _config(data: WrittenData, cohort: int, rounds: int) -> dict[str, Any]:
    return {
        "name": "benchmark",
        "rounds": 1_000_000,
        "problem": {
            "name": "supervised",
            "dataset": {"name": "federated_hdf5", "train": str(data.path), "test": 0.0, "validation": 0.0},
            "model": {"name": "mlp", "hidden": [HIDDEN]},
            "split": {"local": ["head.*"]},
            "batch_size": "all",
        },
        "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 5, "lr": 0.1}},
        "cohort": cohort,
        # scoring looks at all clients: once before, and after each block of rounds
        "evaluate": {"every": rounds, "tuned": {"epochs": 0}},
        "engine": {"device": "cpu"},
    }


WORKLOADS = {"memory": measure}
