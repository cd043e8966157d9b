"""The test cluster itself: nothing of it outlives the process that started it, and it has no neighbours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, wait_for

ROOT = Path(__file__).parent.parent.parent
START = """
import pathlib, signal, sys, time
from tests.slurm.cluster import running_cluster
# what a shell starts in the background ignores it, and so does all that it starts
signal.signal(signal.SIGINT, signal.default_int_handler)
with running_cluster() as cluster:
    cluster.wait_for_state(cluster.ask("sbatch", "--parsable", "--wrap", "srun sleep 1000"), "RUNNING")
    pathlib.Path(sys.argv[1]).write_text(str(cluster.folder))
    time.sleep(1000)
"""


def processes_of(folder: str) -> list[str]:
    """Return the command lines of the processes that have to do with a cluster."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and folder.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().decode())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_second_cluster_stands_beside_and_goes_with_its_process(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    told = tmp_path / "folder"
    process = subprocess.Popen([sys.executable, "-c", START, told], cwd=ROOT)
    try:
        folder = wait_for(lambda: told.exists() and told.read_text().strip(), "the second cluster", 60)
        assert folder != str(cluster.folder)
        # a job that is RUNNING may still be on its way to its node
        wait_for(lambda: "sleep" in "".join(processes_of(folder)), "the job of the second cluster", 60)
        commands = processes_of(folder)
        assert all(any(name in command for command in commands) for name in ("munged", "slurmctld", "slurmd", "sleep"))
        os.kill(process.pid, number)
        process.wait(20)
    finally:
        process.kill()
        process.wait(20)
    wait_for(lambda: not processes_of(folder), f"the end of {processes_of(folder)}", 20)
    wait_for(lambda: not Path(folder).exists(), "the removal of its folder", 20)
    wait_for(cluster.is_up, "an answer of the first cluster", 20)
