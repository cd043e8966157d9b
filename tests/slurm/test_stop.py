"""`ppfl stop` on every kind of job: state saved, and no job comes back by itself; with --requeue it does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.test_snakemake import command
from tests.slurm.test_submit import QUADRATIC, submit

ROOT = Path(__file__).parents[2]
ENDLESS = QUADRATIC.replace("rounds: 6", "rounds: 100000000").replace("every: 2", "every: 1000")
KINDS = ("submitted", "sbatch", "array", "packed", "experiment", "pack")
PATIENCE_SECONDS = 300.0


class Jobs:
    """One job of each kind, with runs that do not end by themselves."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.told: dict[str, str] = {}
        (folder / "run.yaml").write_text(ENDLESS)
        (folder / "grid.yaml").write_text(ENDLESS + "grid: {problem.zeta: [0, 1, 10]}\n")
        (folder / "slurm").symlink_to(ROOT / "slurm")
        for kind, grid in (("experiment", ""), ("pack", "grid: {seed: [0, 1]}\n")):
            (folder / f"{kind}.yaml").write_text(ENDLESS.replace("name: tiny", f"name: {kind}", 1) + grid)
        two_nodes = ("--cpu", "--ranks", "2", "--nodes", "2")
        self.number = {
            "submitted": submit(cluster, folder, "run.yaml", *two_nodes, *named("submitted")),
            "packed": submit(cluster, folder, "grid.yaml", "--cpu", "--cpus-per-rank", "2", *named("packed")),
            "sbatch": self.sbatch("slurm/run.sbatch", "run.yaml", *named("sbatch")),
            "array": self.sbatch("--array=1-3:2", "slurm/grid.sbatch", "grid.yaml", *named("array")),
        }  # fmt: skip
        packs = {"experiments": ["pack"], "runs": 2, "cores": 2, "minutes": 60, "restarts": 0}
        files = [str(folder / "experiment.yaml"), str(folder / "pack.yaml")]
        targets = ("results/figures/experiment.svg", "results/figures/pack.svg")
        self.snakemake = subprocess.Popen(
            command(folder, *targets, experiments=files, ranks=1, packs=packs), cwd=folder, env=cluster.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def sbatch(self, *arguments: str) -> str:
        options = ("--parsable", "--gpus-per-task=0")
        return self.cluster.ask("sbatch", *options, *arguments, cwd=self.folder)

    def claims(self, kind: str) -> list[Path]:
        """Return the claims on the runs of a job."""
        return list((self.folder / "results" / kind).rglob("*.running.json"))

    def stop(self, kind: str, *target: str) -> None:
        """Stop all that a job is at, once so much of it computes as can."""
        num_runs = 2 if kind in ("array", "packed", "pack") else 1

        def computes() -> bool:
            assert self.snakemake.poll() is None, self.snakemake.communicate()[0]
            return len(self.claims(kind)) == num_runs

        wait_for(computes, f"runs of {kind}", PATIENCE_SECONDS)
        self.told[kind] = self.cluster.ask("ppfl", "stop", *target, cwd=self.folder)

    def checkpoints(self, kind: str) -> list[Path]:
        return list((self.folder / "results" / kind).rglob("*.h5.checkpoint/current.json"))


def named(name: str) -> tuple[str, str]:
    return "--set", f"name={name}"


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """Start all jobs, and stop each in the way that its user would."""
    jobs = Jobs(cluster, tmp_path_factory.mktemp("stop"))
    try:
        jobs.stop("submitted", jobs.number["submitted"])
        jobs.stop("packed", "grid.yaml", *named("packed"))
        jobs.stop("array", "results/array")
        wait_for(lambda: jobs.claims("sbatch"), "the run by sbatch", PATIENCE_SECONDS)
        jobs.stop("sbatch", str(jobs.claims("sbatch")[0]).removesuffix(".running.json"))
        jobs.stop("experiment", "experiment.yaml")
        jobs.stop("pack", "pack.yaml")
        yield jobs
    finally:
        jobs.snakemake.kill()
        jobs.snakemake.communicate()
        cluster.ask("scancel", "--user=root")
        wait_for(cluster.is_up, "all nodes to be idle again")


@pytest.mark.parametrize("kind", KINDS)
def test_all_is_saved_and_nobody_is_at_work(jobs: Jobs, kind: str) -> None:
    assert not jobs.claims(kind)
    assert len(jobs.checkpoints(kind)) == (2 if kind in ("array", "packed", "pack") else 1)
    assert jobs.told[kind].count("stopped with everything saved") == len(jobs.checkpoints(kind))


@pytest.mark.parametrize("kind", ["submitted", "sbatch", "packed", "array"])
def test_the_job_ends_and_does_not_come_back(jobs: Jobs, kind: str) -> None:
    tasks = [f"{jobs.number[kind]}_{task}" for task in (1, 3)] if kind == "array" else [jobs.number[kind]]
    for job in tasks:
        jobs.cluster.wait_for_state(job, "FAILED")
        assert (jobs.cluster.fact(job, "ExitCode"), jobs.cluster.fact(job, "Restarts")) == ("76:0", "0")
        assert "goes back to the queue" not in jobs.cluster.output_of(job)


@pytest.mark.parametrize("kind", ["experiment", "pack"])
def test_a_job_of_snakemake_ends_and_does_not_come_back(jobs: Jobs, kind: str) -> None:
    (number,) = {path.stem for path in (jobs.folder / "logs" / "slurm" / f"rule_{kind}").rglob("*.log")}
    jobs.cluster.wait_for_state(number, "FAILED")
    assert jobs.cluster.fact(number, "Restarts") == "0"
    assert jobs.cluster.fact(number, "JobName").startswith("ppfl_")
    assert jobs.cluster.fact(number, "Comment").startswith(f"rule_{kind}_wildcards_{kind}_")


def test_the_log_of_a_run_is_its_own(jobs: Jobs) -> None:
    """Snakemake removes what it calls logs before a job; where that file was is nothing that a run writes to."""
    (log,) = (jobs.folder / "results" / "experiment" / "logs").rglob("try-*.log")
    assert jobs.cluster.ask("ppfl", "log", "experiment.yaml", cwd=jobs.folder) == log.read_text().strip()
    assert "stopped after" in log.read_text()


def test_a_job_that_is_to_go_on_later_does(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(ENDLESS)
    job = submit(cluster, tmp_path, "run.yaml", "--cpu")
    wait_for(lambda: list(tmp_path.rglob("*.running.json")), "the run")
    cluster.ask("ppfl", "stop", "run.yaml", "--requeue", cwd=tmp_path)
    wait_for(lambda: int(cluster.fact(job, "Restarts")), "the job to come back")
    wait_for(lambda: "goes on at round" in cluster.output_of(job), "the run to go on")
    cluster.ask("ppfl", "stop", job, cwd=tmp_path)
    cluster.wait_for_state(job, "FAILED")
    assert cluster.fact(job, "ExitCode") == "76:0"


def test_what_waits_in_the_queue_is_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(ENDLESS)
    job = cluster.ask("sbatch", "--parsable", "--hold", "--wrap", "true", cwd=tmp_path)
    assert "cancelled" in cluster.ask("ppfl", "stop", job, cwd=tmp_path)
    cluster.wait_for_state(job, "CANCELLED")
