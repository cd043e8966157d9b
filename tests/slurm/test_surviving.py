"""What clusters do to jobs: time limits, preemption, lost nodes. Results have the bytes of an uninterrupted run.

A job's shortest time limit is a minute, so the jobs of this module run side by side and the tests wait for their ends.
Each stays in a round until it is told to stop (`tests.mpi.sabotage`), so that nothing comes too late; started again it
goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.test_submit import QUADRATIC, provenance, series, submit

ROOT = Path(__file__).parents[2]
LONG = QUADRATIC.replace("rounds: 6", "rounds: 300").replace("every: 2", "every: 10")
STAYS_IN_ROUND = 100
PATIENCE_SECONDS = 300.0


class Survivors:
    """Jobs and their results."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        (folder / "long.yaml").write_text(LONG)
        cluster.ask("python", "-m", "ppfl", "run", "long.yaml", "--out", "alone.h5", cwd=folder)
        two_nodes, one_node = ("--ranks", "2", "--nodes", "2"), ("--ranks", "1", "--nodes", "1")
        self.job = {
            "limited": self.start("limited", two_nodes, "--nodelist=n0,n1"),
            "preempted": self.start("preempted", two_nodes, "--nodelist=n0,n1", "--partition=spare", "-c3"),
            "orphaned": self.start("orphaned", two_nodes, "--nodelist=n2,n3"),
            "cancelled": self.start("cancelled", one_node, "--nodelist=n2"),
            "ended": self.start("ended", one_node, "--nodelist=n2"),
        }

    def start(self, name: str, size: tuple[str, ...], *options: str) -> str:
        """Submit the job that `ppfl submit` would, with options of sbatch that it does not have."""
        # the ranks of these tests have loaded torch before they fork, so that the process beside each is as large
        text = submit(self.cluster, self.folder, "long.yaml", "--cpu", "--mem=800M", *size, "--dry-run")
        for old, new in (
            ("set -- long.yaml", f"set -- long.yaml --out {name}.h5"),
            ("-m ppfl run", f"-m tests.mpi.sabotage {self.mark(name)} 0 {STAYS_IN_ROUND} run"),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        script = self.folder / f"{name}.sbatch"
        script.write_text(text)
        return self.cluster.ask("sbatch", "--parsable", *options, script, cwd=self.folder, PYTHONPATH=str(ROOT))

    def mark(self, name: str) -> Path:
        """Return the file that says that a job is in the round in which it stays."""
        return self.folder / f"{name}.stays"

    def result(self, name: str) -> Path:
        """Return where a job's result will be."""
        return self.folder / f"{name}.h5"

    def wait_for_rounds(self, name: str) -> None:
        """Return when a job computes."""
        wait_for(self.mark(name).exists, f"rounds of {name}", PATIENCE_SECONDS)

    def wait_for_end(self, name: str) -> str:
        """Return what the job has printed, when it has completed."""
        self.cluster.wait_for_state(self.job[name], "COMPLETED", PATIENCE_SECONDS)
        return self.cluster.output_of(self.job[name])

    def restarts(self, name: str) -> int:
        """Return how often Slurm has started a job again."""
        return int(self.cluster.fact(self.job[name], "Restarts"))


@pytest.fixture(scope="module")
def survivors(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survivors]:
    """Start all jobs, and do to them what clusters do, while the others compute."""
    survivors = Survivors(cluster, tmp_path_factory.mktemp("surviving"))
    survivors.wait_for_rounds("cancelled")
    cluster.ask("scancel", survivors.job["cancelled"])
    survivors.wait_for_rounds("ended")
    cluster.ask("scancel", "--batch", "--signal=TERM", survivors.job["ended"])
    survivors.wait_for_rounds("orphaned")
    cluster.command("kill", "n3")
    cluster.ask("scontrol", "update", "nodename=n3", "state=down", "reason=test")
    survivors.wait_for_rounds("preempted")
    survivors.wait_for_rounds("limited")
    # Slurm warns up to half a minute before it is due, and not before a job has begun to listen
    cluster.ask("scontrol", "update", f"jobid={survivors.job['limited']}", "EndTime=now+80")
    urgent = ("--partition=main", "--nodelist=n0,n1", "--ntasks=2", "--nodes=2", "--cpus-per-task=3", "--wrap=sleep 2")
    survivors.job["urgent"] = cluster.ask("sbatch", "--parsable", *urgent, cwd=survivors.folder)
    cluster.command("start", "n3")
    wait_for(lambda: survivors.restarts("limited"), "the end of the time limit", PATIENCE_SECONDS)
    cluster.ask("scontrol", "update", f"jobid={survivors.job['limited']}", "timelimit=10")
    yield survivors
    cluster.ask("scancel", *survivors.job.values())
    wait_for(cluster.is_up, "all nodes to be idle again")


@pytest.fixture(scope="module")
def uninterrupted(survivors: Survivors) -> dict[str, bytes]:
    """Return the scores of one process that nobody disturbed."""
    return series(survivors.result("alone"))


def test_a_cancelled_job_does_not_come_back(survivors: Survivors) -> None:
    survivors.cluster.wait_for_state(survivors.job["cancelled"], "CANCELLED")
    assert survivors.restarts("cancelled") == 0


def test_a_job_that_is_told_to_end_saves_its_state_and_does_not_come_back(survivors: Survivors) -> None:
    cluster, job = survivors.cluster, survivors.job["ended"]
    cluster.wait_for_state(job, "FAILED")
    assert "start again to continue" in cluster.output_of(job)
    assert (cluster.fact(job, "ExitCode"), survivors.restarts("ended")) == ("75:0", 0)
    assert survivors.result("ended").with_name("ended.h5.checkpoint").exists()


def test_a_lost_node(survivors: Survivors, uninterrupted: dict[str, bytes]) -> None:
    survivors.wait_for_end("orphaned")
    assert survivors.restarts("orphaned") == 1
    assert series(survivors.result("orphaned")) == uninterrupted


def test_preemption(survivors: Survivors, uninterrupted: dict[str, bytes]) -> None:
    text = survivors.wait_for_end("preempted")
    assert "start again to continue" in text
    assert survivors.restarts("preempted") == 1
    assert survivors.cluster.state(survivors.job["urgent"]) == "COMPLETED"
    assert series(survivors.result("preempted")) == uninterrupted


def test_time_limit(survivors: Survivors, uninterrupted: dict[str, bytes]) -> None:
    text = survivors.wait_for_end("limited")
    assert "start again to continue" in text
    assert "goes back to the queue" in text
    assert survivors.restarts("limited") == 1
    assert series(survivors.result("limited")) == uninterrupted
    assert provenance(survivors.result("limited"))["slurm_restart_count"] == "1"
