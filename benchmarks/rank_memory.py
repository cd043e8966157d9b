"""What a rank needs in memory, beside the estimate of `ppfl submit`: `python -m benchmarks.rank_memory`.

Runs a few configurations for some rounds on 1 to 4 ranks (`PPFL_DATA` has to be set) and prints a table: the largest
resident set of any rank, with that of the light process beside it, and the estimate. Exit code 1 when one was too low.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.data import ROOT, equal_clients, sentences
from ppfl.config.grid import load_cells
from ppfl.submit.memory import memory_mb

BESIDE_MB = 25
"""The light process beside a rank."""
MANY: dict[str, Any] = {
    "name": "many",
    "rounds": 4,
    "problem": {
        "name": "supervised", "dataset": {"name": "federated_hdf5", "train": "", "test": 0.0, "validation": 0.0},
        "model": {"name": "mlp", "hidden": [161]}, "split": {"local": []}, "batch_size": "all",
    },
    "algorithm": {"name": "ditto", "lr": 0.1, "local_steps": 1, "penalty": 0.1},
    "evaluate": {"every": 4, "tuned": {"epochs": 0}},
    "engine": {"device": "cpu"},
    "checkpoint": {"every_rounds": 3, "every_seconds": None},
}  # fmt: skip

WORDS: dict[str, Any] = {
    "name": "words",
    "rounds": 2,
    "problem": {
        "name": "supervised", "dataset": {"name": "text_hdf5", "unit": "words"}, "task": {"name": "next_token"},
        "model": {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "feed_forward": 16},
        "split": {"local": []},
    },
    "algorithm": {"name": "fedavg", "lr": 0.1, "epochs": 1},
    "cohort": 3,
    "evaluate": {"every": 2, "clients": 3, "tuned": None},
    "engine": {"device": "cpu"},
}  # fmt: skip


def configurations(folder: Path) -> list[tuple[str, Path, int, list[str]]]:
    """Return name, file, ranks and overrides of what is run."""
    found: list[tuple[str, Path, int, list[str]]] = []
    few = ["rounds=10", "checkpoint={every_rounds: 5, every_seconds: null}"]
    wide = ["problem.shared_dimension=1500", "problem.rows=2000"]
    for name, ranks, changed in (
        ("comparison", 1, few),
        ("comparison", 2, [*few, *wide]),
        ("paper/byzantine", 2, few),
        ("paper/asynchronous", 1, []),
        ("digits", 2, few),
        ("mnist20", 1, few),
        ("mnist20", 4, few),
        ("methods/mnist20", 2, few),
    ):
        found.append((name, ROOT / "configs" / f"{name}.yaml", ranks, changed))
    data = equal_clients(folder, 3000, 2, 8, 62)
    for number, ranks in enumerate((1, 2)):
        path = folder / f"many-{number}.yaml"
        problem = MANY["problem"] | {"dataset": MANY["problem"]["dataset"] | {"train": str(data.path)}}
        path.write_text(yaml.safe_dump(MANY | {"problem": problem}))
        found.append((f"ditto, 3,000 clients of {20_600 * 4 / 1e3:.0f} kB", path, ranks, []))
    texts, counts = sentences(folder, 100, 300, 10_000, 20)
    files = {"train": str(texts), "counts": str(counts)}
    for batch_size in (16, "all"):
        path, problem = folder / f"words-{batch_size}.yaml", WORDS["problem"] | {"batch_size": batch_size}
        problem |= {"dataset": problem["dataset"] | files}
        algorithm = WORDS["algorithm"] | {"batch_size": batch_size}
        path.write_text(yaml.safe_dump(WORDS | {"problem": problem, "algorithm": algorithm}))
        found.append((f"10,000 words, batches of {batch_size}", path, 1, []))
    return found


def peak_mb(command: list[str], folder: Path) -> float:
    """Return the largest resident set of any process below a command, which must succeed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> int:
    """Print the table."""
    print("| run | ranks | measured, MB a rank | estimate, MB | measured / estimate |\n|---|---|---|---|---|")
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (what, path, ranks, changed) in enumerate(configurations(folder)):
            cell = list(load_cells(path, changed).values())[-1]
            launched = [
                str(Path(sys.executable).with_name("mpiexec")),
                "-n",
                str(ranks),
                sys.executable,
                "-m",
                "mpi4py",
            ]
            command = [*launched, "-m", "ppfl", "run", str(path), "--cell", cell.digest, "--out", f"{number}.h5"]
            command += [part for one in changed for part in ("--set", one)]
            # in a process of its own, since the peak of children is kept
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                measured = pool.apply(peak_mb, (command, folder)) + BESIDE_MB
            estimate = memory_mb([cell.config], ranks, gpus=False) or 0
            worst = max(worst, measured / estimate)
            print(f"| {what} | {ranks} | {measured:.0f} | {estimate} | {measured / estimate:.2f} |", flush=True)
    return int(worst > 1)


if __name__ == "__main__":
    sys.exit(main())
