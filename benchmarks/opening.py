"""Workload `data`: opening a federated data set of the sizes of federated EMNIST, its files out of the page cache.

`python -m benchmarks.opening QUESTION ANSWER` is one rank of it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks.data import NUM_FEMNIST_CLASSES, writers
from benchmarks.launch import run_ranks
from benchmarks.machine import peak_bytes
from benchmarks.options import Options, Report
from ppfl.config.run import validate
from ppfl.core.communicator import Communicator
from ppfl.datasets._flatten import flatten
from ppfl.jobs.launcher import open_communicator
from ppfl.runs.assemble import build

NUM_TINY, SIDE = 12, 28
TARGET_SECONDS = 20.0
_TEST_SHARE = 9
"""Samples to train on for one to test on; 671,585 and 77,483 in the public files."""
_SECONDS = ("opening_seconds", "hashing_seconds", "cpu_seconds")
_VARIANTS = {"a group a client, bytes": np.uint8, "a group a client, float32": np.float32, "flat, bytes": np.uint8}


def measure(options: Options) -> Report:
    """Return a row for each layout and number type, with half of the samples of each client and with all of them."""
    sizes, source = writers()
    if options.tiny:
        sizes = dict(list(sizes.items())[:NUM_TINY])
    half = {name: -(-size // 2) for name, size in sizes.items()}
    rows = [_row(name, of, options) for of in (half, sizes) for name in _VARIANTS]
    note = (
        "Opening: from a configuration whose files are not in the page cache to the problem: hashes of both files, "
        "layout of all clients, samples of a rank's own, checks; the slowest rank. Hashing: of these seconds, on every "
        "rank. CPU: that a rank used for it. Read: bytes that each rank asks the file system for after that. Held: "
        "samples in its memory, as they are stored. Peak: most resident memory of the largest rank, libraries included."
    )
    facts = {
        "data": f"images made up, {source}, one more of {_TEST_SHARE} to test on",
        "num_clients": len(sizes),
        "num_samples": sum(sizes.values()),
        "target_seconds": TARGET_SECONDS,
    }
    return Report(rows, facts, [note])


def _row(name: str, sizes: dict[str, int], options: Options) -> dict[str, Any]:
    files = [_write(options.folder / f"{key}.h5", of, _VARIANTS[name]) for key, of in _parts(sizes).items()]
    if name.startswith("flat"):
        grouped, files = files, [file.with_name(f"flat-{file.name}") for file in files]
        for source, out in zip(grouped, files, strict=True):
            flatten(source, out)
            source.unlink()
    spec = {"train": str(files[0]), "test": str(files[1]), "folder": str(options.folder)}
    repetitions = []
    for _ in range(options.repetitions):
        for file in files:
            _forget(file)
        repetitions.append(run_ranks(options.ranks, "benchmarks.opening", spec, options.folder))
    row = {
        "variant": name,
        "num_samples": sum(sizes.values()),
        "file_bytes": sum(file.stat().st_size for file in files),
        **{
            key: median(one[key] for one in repetitions)
            for key in ("opening_seconds", "hashing_seconds", "cpu_seconds")
        },
        "slowest_opening_seconds": max(one["opening_seconds"] for one in repetitions),
        "read_bytes_of_ranks": repetitions[0]["read_bytes"],
        "held_bytes_of_ranks": repetitions[0]["held_bytes"],
        "peak_bytes": max(one["peak_bytes"] for one in repetitions),
        "repetitions": repetitions,
    }
    for file in files:
        file.unlink()
    return row


def _parts(sizes: dict[str, int]) -> dict[str, dict[str, int]]:
    return {"train": sizes, "test": {name: -(-size // _TEST_SHARE) for name, size in sizes.items()}}


def _write(path: Path, sizes: dict[str, int], dtype: type[np.generic]) -> Path:
    """Write images made up, as TensorFlow Federated stores them: contiguous arrays, labels int32."""
    draw = np.random.default_rng(0)
    of_bytes = draw.integers(0, 256, (max(sizes.values()), SIDE, SIDE), dtype=np.uint8)
    images = of_bytes if dtype is np.uint8 else (of_bytes / np.float32(255)).astype(dtype)
    with h5py.File(path, "w") as file:
        for name, size in sizes.items():
            file[f"examples/{name}/pixels"] = images[:size]
            file[f"examples/{name}/label"] = draw.integers(0, NUM_FEMNIST_CLASSES, size, dtype=np.int32)
    return path


def _forget(path: Path) -> None:
    """Let the page cache have nothing of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _opened(spec: dict[str, Any], communicator: Communicator) -> dict[str, Any]:
    """Return what opening took on the slowest rank, and what each of them read and holds. Collective."""
    communicator.barrier()
    started, worked = time.perf_counter(), time.process_time()
    config = validate(_config(spec), Path(spec["folder"]), "benchmark")
    assert config.digest
    hashing = time.perf_counter() - started
    before = _asked_for()
    problem: Any = build(config, communicator).problem
    opening, cpu, read = time.perf_counter() - started, time.process_time() - worked, _asked_for() - before
    # of each pack once
    stores = problem.client_data._stores
    held = sum({id(rows): rows._x.nbytes for rows in stores.values()}.values())
    mine = torch.tensor([[read, held, peak_bytes()]])
    of_ranks = communicator.allgather_rows(mine)
    seconds = communicator.allreduce(torch.tensor([opening, hashing, cpu], dtype=torch.float64), "max").tolist()
    return {
        "opening_seconds": seconds[0], "hashing_seconds": seconds[1], "cpu_seconds": seconds[2],
        "read_bytes": of_ranks[:, 0].tolist(), "held_bytes": of_ranks[:, 1].tolist(),
        "peak_bytes": int(of_ranks[:, 2].max()),
    }  # fmt: skip


def _asked_for() -> int:
    """Return how many bytes this process has asked the file system for; 0 where nobody counts them."""
    counts = Path("/proc/self/io")
    lines: Iterator[str] = iter(counts.read_text().splitlines() if counts.exists() else ())
    return next((int(line.split()[1]) for line in lines if line.startswith("rchar:")), 0)


def _config(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "opening", "rounds": 1,
        "problem": {
            "name": "supervised", "dataset": {"name": "federated_hdf5", "train": spec["train"], "test": spec["test"]},
            "model": {"name": "logistic_regression"}, "split": {"local": []}, "batch_size": "all",
        },
        "algorithm": {"name": "fedavg", "lr": 0.1, "epochs": 1},
        "engine": {"device": "cpu"},
    }  # fmt: skip


def main(question: str, answer: str) -> None:
    communicator = open_communicator()
    found = _opened(json.loads(Path(question).read_text()), communicator)
    if communicator.rank == 0:
        Path(answer).write_text(json.dumps(found))


WORKLOADS = {"data": measure}

if __name__ == "__main__":
    main(*sys.argv[1:])
