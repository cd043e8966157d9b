"""Seconds and memory of `ppfl collect`: `python -m benchmarks.collect [RUNS]` prints Markdown.

The results are synthetic: one is written by the recorder, the others are copies of it with other settings and numbers.
They lie in a temporary folder that is removed.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import h5py
import numpy as np
import yaml

from ppfl.results.recorder import Recorder
from ppfl.results.seal import seal_anew

ROUNDS = 200
CLIENTS = 8
SERIES = (
    "operator_norm",
    "loss",
    "distance",
    "shared_gradients",
    "local_gradients",
    "uplink_bytes",
    "downlink_bytes",
    "seconds",
)
CONFIG = {
    "name": "synthetic", "seed": 0, "rounds": ROUNDS, "precision": "float64",
    "problem": {"name": "quadratic", "seed": 0, "generator": "comparison", "clients": CLIENTS, "zeta": 1.0},
    "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "conjugate_gradient", "steps": 1}},
    "cohort": "all", "weights": "uniform", "server_optimizer": {"name": "sgd", "lr": 1.0}, "evaluate": {"every": 1},
}  # fmt: skip


def settings() -> Iterator[tuple[float, float, int, int]]:
    """10 of ζ, 20 steps of θ, 5 numbers of steps of w, and as many seeds as it takes."""
    for seed in range(10**6):
        for zeta, lr, steps in product(range(10), range(1, 21), (1, 2, 5, 10, 20)):
            yield float(zeta), lr / 10, steps, seed


def write_results(folder: Path, num_runs: int) -> None:
    template = folder / "template"
    text = yaml.safe_dump(CONFIG, sort_keys=False)
    recorder = Recorder(
        template, {"digest": "", "name": "synthetic", "config": text, "results_version": 1}, provenance()
    )
    recorder.describe_problem({"L": 2.0}, {"client": np.array([str(m) for m in range(CLIENTS)], dtype=object)})
    for number in range(ROUNDS + 1):
        scores = {name: np.float64(number) for name in SERIES}
        recorder.append(number, scores | {"client_gradient_norm": np.ones(CLIENTS)})
    statistics = ["mean", "weighted_mean", "q10", "q50", "q90"]
    recorder.finish("complete", {}, {"loss": np.ones((3, 5))}, ["global", "personal", "tuned"], statistics, {}, {})
    draw = np.random.default_rng(0)
    for number, (zeta, lr, steps, seed) in enumerate(islice(settings(), num_runs)):
        digest = f"{number:016x}"
        path = folder / f"{digest}.h5"
        shutil.copyfile(template, path)
        config = re.sub(r"seed: 0", f"seed: {seed}", text).replace("zeta: 1.0", f"zeta: {zeta}")
        config = config.replace("lr: 0.1", f"lr: {lr}").replace("steps: 1", f"steps: {steps}")
        with h5py.File(path, "r+") as file:
            file.attrs["digest"], file.attrs["config"] = digest, config
            for name in SERIES:
                file["rounds"][name][:] = draw.random(ROUNDS + 1)
        seal_anew(path)
    template.unlink()


def provenance() -> dict[str, str]:
    return {
        "commit": "0123456789ab",
        "host": "node",
        "device": "cpu",
        "version_ppfl": "0.1.0",
        "version_torch": "2.13.0",
    }


def main(num_runs: int) -> None:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    with tempfile.TemporaryDirectory(prefix="ppfl-collect-") as name:
        folder, out = Path(name, "results"), Path(name, "grid.h5")
        folder.mkdir()
        write_results(folder, num_runs)
        size = sum(path.stat().st_size for path in folder.iterdir())
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "ppfl", "collect", folder, "--out", out], check=True, stdout=sys.stderr)
        seconds = time.monotonic() - started
        # of all children that have ended, which are git and `ppfl collect`
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        head = ("runs", "rounds", "read (MB)", "written (MB)", "seconds", "seconds of CPU", "peak memory (MB)")
        print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
        sizes = f"{size / 1e6:.0f} | {out.stat().st_size / 1e6:.0f}"
        spent = f"{seconds:.1f} | {usage.ru_utime + usage.ru_stime:.1f} | {usage.ru_maxrss * 1024 / 1e6:.0f}"
        print(f"| {num_runs} | {ROUNDS} | {sizes} | {spent} |")
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}; commit {commit.stdout.strip()}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
