"""A thousand small runs: `python -m benchmarks.pack FOLDER [--runs N] [--naive N] [--jobs N]` prints Markdown.

Packed: `ppfl pack` on a grid of step sizes × seeds × ζ of the comparison experiment (8 clients, 200 rounds). Naive: one
`ppfl run` for each run, as many at once as there are jobs, on a sample. Snakemake: the same grid as one packed
experiment of the workflow, less the time of `ppfl pack` alone. Plain: a loop in NumPy over the same runs, in as many
processes; rounds and scores alone, without start, problems and writing, which the time of `ppfl pack` contains.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from benchmarks.handover import write_runs
from ppfl.config.grid import load_cells
from ppfl.core.provenance import describe_process, now

ROOT = Path(__file__).parent.parent
BASE: dict[str, Any] = {
    "name": "thousand",
    "rounds": 200,
    "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison"},
    "algorithm": {"name": "ffgg", "fine_tuner": {"name": "conjugate_gradient", "steps": 5, "start": "redraw"}},
    "evaluate": {"every": 5},
}
STEP_SIZES = [0.005 * step for step in range(1, 11)]
ZETAS = [0, 0.1, 0.3, 1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--naive", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = write_grid(folder, arguments.runs)
    digests = list(load_cells(config))
    naive = time_naive(config, folder / "naive", digests[: arguments.naive], arguments.jobs)
    packed = timed("-m", "ppfl", "pack", config, "--out", folder / "packed", "--jobs", arguments.jobs)
    again = timed("-m", "ppfl", "pack", config, "--out", folder / "packed", "--jobs", arguments.jobs)
    status = timed("-m", "ppfl", "status", folder / "packed")
    plain = time_plain(config, folder, arguments.jobs)
    workflow = time_workflow(config, folder, arguments.jobs)
    per_run = naive / arguments.naive
    facts = describe_process()
    machine = f"{platform.machine()}, {arguments.jobs} cores"
    print(f"\n{now()}, {machine}, commit {facts['commit']}, torch {facts['version_torch']}\n")
    print("| what | runs | seconds | seconds a run |")
    print("|---|---|---|---|")
    row("`ppfl pack`", len(digests), packed)
    row("`ppfl pack` when all is done", len(digests), again)
    row("`ppfl status`", len(digests), status)
    row("Snakemake around a pack, all in all", len(digests), workflow)
    row("a plain loop in NumPy", len(digests), plain)
    row("one `ppfl run` a run, measured", arguments.naive, naive)
    row("the same, all runs (extrapolated)", len(digests), per_run * len(digests))
    print(f"\nplain/packed: {plain / packed:.2f}")


def write_grid(folder: Path, num_runs: int) -> Path:
    cases = itertools.product(range(num_runs), ZETAS, STEP_SIZES)
    chosen = [
        {"seed": seed, "problem.zeta": zeta, "algorithm.lr": lr}
        for seed, zeta, lr in itertools.islice(cases, num_runs)
    ]  # fmt: skip
    path = folder / "thousand.yaml"
    path.write_text(yaml.safe_dump({**BASE, "grid": {"cases": chosen}}))
    return path


def timed(*arguments: object, cwd: Path = ROOT) -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, check=True, stdout=sys.stderr)
    return time.monotonic() - started


def time_naive(config: Path, folder: Path, digests: list[str], jobs: int) -> float:
    def run(digest: str) -> None:
        timed("-m", "ppfl", "run", config, "--cell", digest, "--out", folder / f"{digest}.h5")

    started = time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, digests))
    return time.monotonic() - started


def time_plain(config: Path, folder: Path, jobs: int) -> float:
    """Return the seconds of the slowest of several processes that share the runs."""
    handover = folder / "handover.npz"
    write_runs([cell.config for cell in load_cells(config).values()], handover)
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.plain_pack", str(handover)]
    processes = [
        subprocess.Popen([*command, str(number), str(jobs)], cwd=ROOT, env=one_thread, stdout=subprocess.PIPE)
        for number in range(jobs)
    ]
    answers = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), "the plain loop failed"
    return max(map(float, answers))


def time_workflow(config: Path, folder: Path, jobs: int) -> float:
    settings = folder / "workflow.yaml"
    settings.write_text(yaml.safe_dump({"experiments": [str(config)], "packs": {"experiments": [BASE["name"]]}}))
    where = ["--snakefile", ROOT / "Snakefile", "--directory", folder / "workflow", "--configfile", settings]
    target = f"results/{BASE['name']}/packs/1-of-1.done"
    (folder / "workflow").mkdir()
    return timed("-m", "snakemake", *where, "--cores", jobs, target, cwd=folder)


def row(what: str, count: int, seconds: float) -> None:
    print(f"| {what} | {count} | {seconds:.1f} | {seconds / count:.3f} |")


if __name__ == "__main__":
    main()
