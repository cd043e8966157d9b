"""Jobs for tests: `ppfl run` on some ranks, in a session of its own, and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from ppfl.results.parameters import load_local, load_shared

ROOT = Path(__file__).parents[2]
MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
CG = {"name": "conjugate_gradient", "steps": 6, "start": "redraw"}
CONFIG: dict[str, Any] = {
    "name": "job",
    "seed": 3,
    "rounds": 400,
    "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 9, "rows": 40},
    "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": CG},
    "server_optimizer": {"name": "momentum", "beta": 0.5},
    "evaluate": {"every": 10, "tuned": {"epochs": 1}},
    "save": {"local": True},
}
VIRTUAL = {"asynchronous": {"engine": "virtual", "step": "delay_adaptive"}, "compute_times": {"name": "exponential"}}
MESSAGES = {"asynchronous": {"engine": "messages"}}
ATTACKED: dict[str, Any] = {
    "aggregator": {"name": "trimmed_mean", "f": 2, "before": [{"name": "nnm"}]},
    "byzantine": {"attack": {"name": "gaussian", "standard_deviation": 1.0}, "clients": 2},
}
"""What needs a buffer of five uplinks."""


@contextmanager
def job(
    ranks: int, out: Path, *sabotage: object, config: dict[str, Any] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start `ppfl run`; on one rank without a launcher. Whatever is left of it at the end is killed."""
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**CONFIG, **(config or {})}))
    start = ["-m", "tests.mpi.sabotage", *map(str, sabotage)] if sabotage else ["-m", "ppfl"]
    launcher = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "mpi4py"] if ranks > 1 else [sys.executable]
    process = subprocess.Popen(
        [*launcher, *start, "run", str(path), "--out", str(out)],
        cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def processes_of(pid: int) -> list[int]:
    """Return the processes of a job that are Python: its ranks, and who watches over them."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        own = [pid] if Path(f"/proc/{pid}/comm").read_text().startswith("python") else []
    except OSError:  # it has ended meanwhile
        return []
    return own + [one for child in below for one in processes_of(int(child))]


def finish(process: subprocess.Popen[str], code: int = 0, seconds: float = 180) -> str:
    """Wait for the end with an exit code; return what the job said."""
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, said
    return said


def wait_for(process: subprocess.Popen[str], path: Path, condition: Callable[[], bool] = lambda: True) -> None:
    """Wait until a file is there, and a condition holds."""
    deadline = time.monotonic() + 120
    while not (path.exists() and condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def claim_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.with_name(f"{out.name}.running.json").read_text())
    return found


def arrays(path: Path) -> dict[str, bytes]:
    """Return all that a result holds beside measured times, and its parameters, as bytes."""
    found: dict[str, bytes] = {}

    def collect(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and name.rsplit("/", 1)[-1] not in ("seconds", "communication_seconds"):
            values = node[()]
            found[name] = repr(values.tolist()).encode() if values.dtype == object else np.asarray(values).tobytes()

    with h5py.File(path) as file:
        file.visititems(collect)
        found["status"] = str(file.attrs["status"]).encode()
    found |= {f"shared/{name}": value.numpy().tobytes() for name, value in load_shared(path).items()}
    for client, params in load_local(path).items():
        found |= {f"local/{client}/{name}": value.numpy().tobytes() for name, value in params.items()}
    return found


def left_beside(out: Path) -> set[str]:
    """Return the ends of the names of what lies beside a result, other than its parameters and its configuration."""
    names = {path.name for path in out.parent.iterdir() if out.name in path.name} - {out.name}
    return {name.replace(out.name, "") for name in names if not name.endswith(".safetensors")}
