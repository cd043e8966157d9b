"""Make the files that are kept of one version of the code: `python -m tests.kept.make` on a clean checkout of it.

tests/kept/version-<results_version>/ gets results of each kind (complete, diverged, asynchronous, stopped with a
checkpoint of two ranks), the parameters beside them, and a collected grid. Made once for a version, before anything
that reads or writes files changes; afterwards these files are only read (`tests/kept/test_kept.py`). They have
checksums, so nothing in them can be blotted out: commands are called by a name that does not say where the checkout is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ppfl.config.run import RESULTS_VERSION

CONFIGS = Path(__file__).parents[2] / "configs" / "test"
ASYNCHRONOUS = """
name: kept_asynchronous
rounds: 24
precision: float64
problem: {name: quadratic, generator: comparison, zeta: 1, clients: 4, rows: 30}
algorithm: {name: ffgg, lr: theory, fine_tuner: {name: exact}}
asynchronous: {engine: virtual}
compute_times: {name: fixed}
evaluate: {every: 8}
"""
PPFL = ("-c", "import sys; sys.argv[0] = 'ppfl'; from ppfl.cli import main; main()")
"""What provenance says of it is `ppfl run …`."""
STOPPED = ("--set", "rounds=100000", "--set", "checkpoint.every_rounds=50")


def make(folder: Path) -> None:
    """Write everything into a folder that must not exist yet."""
    folder.mkdir(parents=True)
    for name in ("digits.yaml", "quadratic.yaml"):
        shutil.copy(CONFIGS / name, folder)
    (folder / "asynchronous.yaml").write_text(ASYNCHRONOUS.lstrip(), encoding="utf-8")
    _ppfl(folder, "run", "digits.yaml", "--out", "digits.h5", "--set", "save.local=true")
    _ppfl(folder, "run", "asynchronous.yaml", "--out", "asynchronous.h5")
    _ppfl(folder, "pack", "quadratic.yaml", "--out", "quadratic")
    _ppfl(folder, "collect", "quadratic.yaml", "--results", "quadratic", "--out", "collected.h5")
    _stop(folder)
    for logs in list(folder.rglob("logs")):
        shutil.rmtree(logs)  # text, for people


def _ppfl(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, *PPFL, *arguments], cwd=folder, check=True)


def _stop(folder: Path) -> None:
    """Start a run of two ranks that would be long, and stop it as a batch system does: with everything saved."""
    words = [sys.executable, "-m", "mpi4py", *PPFL, "run", "digits.yaml", "--out", "stopped.h5", *STOPPED]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(["mpiexec", "-n", "2", *words], cwd=folder, env=environment) as job:
        while not (folder / "stopped.h5.checkpoint" / "current.json").exists():
            if job.poll() is not None:
                raise RuntimeError(f"ended with {job.returncode} before its first checkpoint")
        job.terminate()
    if not (folder / "stopped.h5.checkpoint" / "current.json").exists():
        raise RuntimeError("no checkpoint was left")


if __name__ == "__main__":
    make(Path(__file__).parent / f"version-{RESULTS_VERSION}")
