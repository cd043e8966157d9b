"""Asynchronous runs by messages on real MPI ranks: the log, its replay, shares of ranks, a worker that dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import yaml

from ppfl.config.run import load
from ppfl.results.parameters import load_local, load_shared
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent

pytestmark = pytest.mark.mpi

ROOT = Path(__file__).parents[2]
LOG = ("client", "version", "delay", "seconds", "turnaround_seconds")
CONFIG: dict[str, Any] = {
    "name": "messages",
    "seed": 3,
    "rounds": 600,
    "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 9, "rows": 200},
    "algorithm": {
        "name": "ffgg",
        "lr": "theory",
        "fine_tuner": {"name": "conjugate_gradient", "steps": 40, "start": "redraw"},
    },
    "asynchronous": {"engine": "messages", "step": "delay_adaptive"},
    "evaluate": {"every": 100, "tuned": {"epochs": 1}},
    "save": {"local": True},
}


def start(count: int, folder: Path, name: str, config: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start a run of `count` ranks in a session of its own; its result is `folder/name.h5`."""
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    command = [mpiexec, "-n", str(count), sys.executable, "-m", "mpi4py", "-m", "tests.mpi.run_many"]
    return subprocess.Popen([*command, str(folder), str(folder / f"{name}.yaml")], cwd=ROOT, start_new_session=True)


def finish(process: subprocess.Popen[bytes]) -> None:
    try:
        assert process.wait(timeout=180) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run by messages between three ranks."""
    folder = tmp_path_factory.mktemp("messages")
    finish(start(3, folder, "live", CONFIG))
    return folder / "live.h5"


def test_the_log_opens_with_named_dimensions(live: Path) -> None:
    log = xarray.open_dataset(live, engine="h5netcdf", group="arrivals")
    assert log.sizes == {"arrival": 600}
    assert set(LOG) == set(log.data_vars)
    assert set(np.unique(log.client)) == set(range(9))
    assert bool((log.seconds.diff("arrival") >= 0).all())
    version_at_arrival = np.arange(600)
    assert np.array_equal(log.delay, version_at_arrival - log.version)


def test_the_virtual_clock_replays_it_bit_for_bit(live: Path) -> None:
    rules = {**CONFIG["asynchronous"], "engine": "virtual", "replay": str(live)}
    path = live.with_name("replay.yaml")
    path.write_text(yaml.safe_dump({**CONFIG, "asynchronous": rules}))
    replayed = live.with_name("replay.h5")
    run(load(path), replayed, Silent())
    want, got = open_result(live), open_result(replayed)
    assert load_shared(live)["theta"].numpy().tobytes() == load_shared(replayed)["theta"].numpy().tobytes()
    for client, params in load_local(live).items():
        assert params["w"].numpy().tobytes() == load_local(replayed)[client]["w"].numpy().tobytes()
    for group in ("rounds", "clients", "summary", "arrivals"):
        one, other = getattr(want, group), getattr(got, group)
        names = set(one.data_vars) - ({"seconds", "communication_seconds"} if group == "rounds" else set())
        assert names
        assert all(np.array_equal(one[name].values, other[name].values) for name in names)


def test_no_rank_starves(live: Path) -> None:
    """Three ranks of three equal clients: nobody has less than a quarter of an equal share."""
    shares = np.bincount(open_result(live).arrivals["client"] // 3, minlength=3) / 600
    assert shares.min() >= 1 / 12, shares


def test_a_dying_worker_ends_the_job_and_leaves_what_there_is(tmp_path: Path) -> None:
    config = {**CONFIG, "rounds": 10_000_000, "evaluate": {"every": 20, "tuned": {"epochs": 0}}}
    process = start(3, tmp_path, "dying", config)
    out = tmp_path / "dying.h5"
    try:
        deadline = time.monotonic() + 120
        while not out.exists() or open_result(out).rounds.sizes["round"] < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        before = open_result(out)
        os.kill(worker_of(process.pid), signal.SIGKILL)
        killed = time.monotonic()
        code = process.wait(timeout=30)
        assert code != 0
        assert time.monotonic() - killed < 10
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    after = open_result(out)
    assert after.attrs["status"] == "running"
    assert after.rounds.sizes["round"] >= before.rounds.sizes["round"] >= 3
    assert after.arrivals.sizes["arrival"] >= int(after.rounds["round"][-1])
    assert not list(tmp_path.glob("*.shared.safetensors"))


def worker_of(launcher: int) -> int:
    """Return the process of the last rank: the one whose environment says so."""
    highest = (0, 0)
    for process in Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            session = int((process / "stat").read_text().rsplit(")", 1)[1].split()[3])
        except (OSError, ValueError, IndexError):
            continue
        ranks = [int(entry.split(b"=")[1]) for entry in environment if entry.startswith(b"PMI_RANK=")]
        if ranks and (session == launcher or descends_from(int(process.name), launcher)):
            highest = max(highest, (ranks[0], int(process.name)))
    assert highest[0] == 2
    return highest[1]


def descends_from(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            return False
    return False
