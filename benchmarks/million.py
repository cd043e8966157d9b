"""Workload `million`: a million clients with ten samples each in the flat layout, of whom a hundred take part."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py
import yaml

from benchmarks.data import flat_clients
from benchmarks.launch import launcher, run_watched
from benchmarks.options import Options, Report
from ppfl.core.data_file import DataFile

NUM_CLIENTS, COHORT, SCORED = 1_000_000, 100, 1000
SAMPLES, FEATURES, NUM_CLASSES, HIDDEN = 10, 16, 10, 16
ROUNDS = 200


def measure(options: Options) -> Report:
    """Return a row for each number of clients, with the same cohort and as many scored."""
    most = options.clients or (2000 if options.tiny else NUM_CLIENTS)
    rows = [_row(clients, options) for clients in (most // 100, most // 10, most)]
    note = (
        "Hashing: of the file, by one process, as each rank does at its start. Opening: from there to the first round: "
        "layout, names, samples, checks, problem. Peak: most resident memory of every process since its start, added "
        "up, launchers and the light process beside a rank included. Seconds of a round: without scoring, between the "
        "first scores after round 0 and the last; of scoring: mean of three times; wall: of the whole `ppfl run`."
    )
    data = f"synthetic, flat, {SAMPLES} samples of {FEATURES} float32 a client"
    return Report(rows, {"what_is_read": data, "model": f"mlp with {HIDDEN} hidden units"}, [note])


def _row(clients: int, options: Options) -> dict[str, Any]:
    few = max(2, clients // 10)
    cohort, scored, rounds = min(COHORT, few), min(SCORED, few), 4 if options.tiny else ROUNDS
    data = flat_clients(options.folder / f"flat-{clients}.h5", clients, SAMPLES, FEATURES, NUM_CLASSES)
    started = time.perf_counter()
    digest = DataFile(data).sha256
    hashing = time.perf_counter() - started
    config, out = options.folder / f"{clients}.yaml", options.folder / f"{clients}-result.h5"
    config.write_text(yaml.safe_dump(_config(data, cohort, scored, rounds)))
    started = time.perf_counter()
    peaks, _ = run_watched([*launcher(options.ranks), "-m", "ppfl", "run", str(config), "--out", str(out)])
    wall = time.perf_counter() - started
    with h5py.File(out) as file:
        spent = {name: float(value) for name, value in file["seconds"].attrs.items()}
        round, seconds = file["rounds/round"][()], file["rounds/seconds"][()]
    size = data.stat().st_size
    data.unlink()
    return {
        "clients": clients,
        "cohort": cohort,
        "scored": scored,
        "ranks": options.ranks,
        "file_bytes": size,
        "hashing_seconds": hashing,
        "opening_seconds": spent["start"],
        "seconds_per_round": float((seconds[-1] - seconds[1]) / (round[-1] - round[1])),
        "seconds_of_scoring": spent["scoring"] / len(round),
        "final_seconds": spent["final_stages"],
        "wall_seconds": wall,
        "peak_bytes": sum(peaks.values()),
        "largest_process_bytes": max(peaks.values()),
        "repetitions": [{"rounds": round.tolist(), "seconds": seconds.tolist(), "spent": spent, "sha256": digest}],
    }


def _config(data: Path, cohort: int, scored: int, rounds: int) -> dict[str, Any]:
    return {
        "name": "million",
        "rounds": rounds,
        "problem": {
            "name": "supervised",
            "dataset": {"name": "federated_hdf5", "train": str(data)},
            "model": {"name": "mlp", "hidden": [HIDDEN]},
            "split": {"local": ["head.*"]},
            "batch_size": "all",
        },
        "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 5, "lr": 0.1}},
        "cohort": cohort,
        "evaluate": {"every": rounds // 2, "clients": scored},
        "engine": {"device": "cpu"},
    }


WORKLOADS = {"million": measure}
