"""Jobs from `ppfl submit` to their results."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.slurm.cluster import Cluster, wait_for

ROOT = Path(__file__).parent.parent.parent
QUADRATIC = """
name: tiny
rounds: 6
precision: float64
problem: {name: quadratic, generator: comparison, zeta: 1, clients: 4, rows: 60}
algorithm: {name: ffgg, lr: theory, fine_tuner: {name: conjugate_gradient, steps: 2, start: redraw}}
evaluate: {every: 2}
"""


def series(path: Path) -> dict[str, bytes]:
    """Return every array of scores, as bytes; what is measured about the machine left out."""
    with h5py.File(path) as file:
        assert file.attrs["complete"] == 1
        names = [name for name in file["rounds"] if not name.endswith("seconds")]
        return {name: np.asarray(file["rounds"][name]).tobytes() for name in names}


def provenance(path: Path) -> dict[str, object]:
    with h5py.File(path) as file:
        return dict(file["provenance"].attrs)


def submit(cluster: Cluster, folder: Path, *arguments: str, **variables: str) -> str:
    return cluster.ask("python", "-m", "ppfl", "submit", *arguments, cwd=folder, **variables)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "tiny.yaml").write_text(QUADRATIC)
    (folder / "grid.yaml").write_text(QUADRATIC + "grid: {problem.zeta: [0, 1, 10]}\n")
    return folder


@pytest.fixture(scope="module")
def alone(cluster: Cluster, folder: Path) -> Path:
    """Return the result of one process without Slurm."""
    cluster.ask("python", "-m", "ppfl", "run", "tiny.yaml", "--out", "alone.h5", cwd=folder)
    return folder / "alone.h5"


def test_a_run_on_two_nodes_has_the_bytes_of_one_process(cluster: Cluster, folder: Path, alone: Path) -> None:
    job = submit(cluster, folder, "tiny.yaml", "--cpu", "--ranks", "4", "--nodes", "2")
    cluster.wait_for_state(job, "COMPLETED")
    (result,) = (folder / "results" / "tiny").glob("*.h5")
    assert series(result) == series(alone)
    found = provenance(result)
    assert (found["num_ranks"], found["slurm_job_id"]) == (4, job)
    assert cluster.fact(job, "NodeList") == "n[0-1]"


def test_ranks_find_each_other_whatever_lies_in_their_memory(cluster: Cluster, folder: Path, alone: Path) -> None:
    """With UCX these wait for ever, or abort: Slurm cuts what MPICH sends from behind its addresses."""
    step = ("srun", "--mpi=pmi2", "--ntasks=2", "--nodes=2", "python", "-m", "mpi4py", "-m", "tests.mpi.dense_memory")
    cluster.ask(*step, "run", "tiny.yaml", "--out", "dense.h5", cwd=folder)
    assert series(folder / "dense.h5") == series(alone)
    assert provenance(folder / "dense.h5")["num_ranks"] == 2


def test_each_rank_of_a_gpu_job_has_a_gpu_of_its_own(cluster: Cluster, folder: Path) -> None:
    script = folder / "bindings.sh"
    show = "srun sh -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'"
    text = submit(cluster, folder, "tiny.yaml", "--gpus-per-node", "2", "--ranks", "4", "--dry-run")
    script.write_text(text.partition("set -euo")[0] + show + "\n")
    job = cluster.ask("sbatch", "--parsable", script, cwd=folder)
    cluster.wait_for_state(job, "COMPLETED")
    assert sorted(cluster.output_of(job).split("\n")[:4]) == ["n0 0", "n0 1", "n1 0", "n1 1"]


def test_ranks_that_share_gpus_see_those_of_their_node(cluster: Cluster, folder: Path) -> None:
    script = folder / "shared.sh"
    show = "srun sh -c 'echo $SLURMD_NODENAME $SLURM_LOCALID $CUDA_VISIBLE_DEVICES'"
    text = submit(cluster, folder, "tiny.yaml", "--gpus-per-node", "2", "--ranks-per-gpu", "2", "--dry-run")
    script.write_text(text.partition("set -euo")[0] + show + "\n")
    job = cluster.ask("sbatch", "--parsable", script, cwd=folder)
    cluster.wait_for_state(job, "COMPLETED")
    assert sorted(cluster.output_of(job).split("\n")[:4]) == [f"n0 {rank} 0,1" for rank in range(4)]


def test_the_scripts_work_without_ppfl_submit(cluster: Cluster, folder: Path, alone: Path) -> None:
    """As slurm/README.md says: in a folder that has slurm/ in it."""
    place = folder / "by-hand"
    place.mkdir()
    (place / "slurm").symlink_to(ROOT / "slurm")
    options = ("--parsable", "--ntasks=2", "--gpus-per-task=0")
    run = cluster.ask("sbatch", *options, "slurm/run.sbatch", "../tiny.yaml", "--out", "hand.h5", cwd=place)
    array = cluster.ask("sbatch", *options, "--array=3,7", "slurm/grid.sbatch", "../grid.yaml", cwd=place)
    cluster.wait_for_state(run, "COMPLETED")
    assert series(place / "hand.h5") == series(alone)
    for task in ("3", "7"):
        cluster.wait_for_state(f"{array}_{task}", "COMPLETED")
    results = sorted((place / "results" / "tiny").glob("*.h5"))
    assert len(results) == 3
    assert [provenance(path)["num_ranks"] for path in results] == [2, 2, 2]


def test_mpiexec_may_start_the_ranks_and_is_handed_the_signals(cluster: Cluster, folder: Path) -> None:
    """Where env.sh says so; a warning of Slurm stops the ranks, the job comes back, and the run is completed."""
    place = folder / "mpiexec"
    shutil.copytree(ROOT / "slurm", place / "slurm")
    site = place / "slurm" / "env.sh"
    text = site.read_text()
    assert "PPFL_LAUNCHER=(srun --mpi=pmi2)" in text
    site.write_text(text.replace("(srun --mpi=pmi2)", '(mpiexec -n "${SLURM_NTASKS:-1}")'))
    (place / "long.yaml").write_text(QUADRATIC.replace("rounds: 6", "rounds: 400").replace("every: 2", "every: 50"))
    script, mark = place / "slurm" / "run.sbatch", place / "stays"  # in a round until the warning has come
    text = script.read_text()
    assert text.count("-m ppfl run") == 1
    script.write_text(text.replace("-m ppfl run", f"-m tests.mpi.sabotage {mark} 0 100 run"))
    # mpiexec starts both ranks as one task by srun, which has the memory of one
    options = ("--parsable", "--ntasks=2", "--gpus-per-task=0", "--mem-per-cpu=1500M")
    job = cluster.ask(
        "sbatch", *options, "slurm/run.sbatch", "long.yaml", "--out", "long.h5", cwd=place, PYTHONPATH=str(ROOT)
    )
    wait_for(mark.exists, "the first rounds")
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: int(cluster.fact(job, "Restarts")), "the job to come back")  # it is PENDING for seconds only
    assert (place / "long.h5.checkpoint").exists()
    cluster.wait_for_state(job, "COMPLETED")
    assert "goes on at round" in cluster.output_of(job)
    assert len(series(place / "long.h5")["operator_norm"]) == 8 * 9


def test_a_grid_is_packed_into_one_job(cluster: Cluster, folder: Path) -> None:
    job = submit(cluster, folder, "grid.yaml", "--cpu", "--ranks", "4", "--nodes", "2", "--set", "name=packed")
    cluster.wait_for_state(job, "COMPLETED")
    digests = {
        run["digest"]
        for run in json.loads(cluster.ask("python", "-m", "ppfl", "grid", "grid.yaml", "--json", cwd=folder))
    }
    assert {path.stem for path in (folder / "results" / "packed").glob("*.h5")} == digests


def test_a_launcher_that_does_not_fit_the_mpi_is_refused(cluster: Cluster, folder: Path) -> None:
    done = cluster.run(
        "srun", "--mpi=none", "--ntasks=2", "python", "-m", "mpi4py", "-m", "ppfl", "run", "tiny.yaml", "--out", "x.h5",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("srun started 2 processes, but MPI sees 1") == 1
    assert "--mpi=pmi2" in done.stderr
    assert not (folder / "x.h5").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("env", "CUDA_VISIBLE_DEVICES=1"), "ranks 0 and 1 share GPU 1 of n0"),
        (("env", "CUDA_VISIBLE_DEVICES="), "but rank 0 sees none"),
    ],
)
def test_ranks_without_a_gpu_of_their_own_are_told(
    cluster: Cluster, folder: Path, options: tuple[str, ...], told: str
) -> None:
    done = cluster.run(
        "srun", "--mpi=pmi2", "--ntasks=2", "--nodes=1", "--nodelist=n0", *options,
        "python", "-m", "mpi4py", "-m", "ppfl", "run", "tiny.yaml", "--out", "x.h5",
        cwd=folder, SLURM_GPUS_PER_TASK="1",  # as in a job that asked for them
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("ppfl: error") == 1
    assert told in done.stderr
    assert not (folder / "x.h5").exists()


def test_a_killed_rank_ends_the_job_with_a_reason(cluster: Cluster, folder: Path) -> None:
    long = ("--set", "rounds=1000000", "--set", "name=killed")
    job = submit(cluster, folder, "tiny.yaml", "--cpu", "--ranks", "2", "--nodes", "2", *long)
    # not its claim alone: until all ranks know that the run is theirs, one that dies has no run to tell of
    (out,) = wait_for(lambda: list((folder / "results" / "killed").glob("*.h5")), "the job to compute")
    victim = wait_for(lambda: rank_process(job, "1"), "rank 1")
    os.kill(victim, signal.SIGKILL)
    cluster.wait_for_state(job, "FAILED", 30)
    reason = json.loads(out.with_name(f"{out.name}.failed.json").read_text())
    assert "SIGKILL" in reason["reason"]
    assert reason["rank"] == 1


def test_a_step_that_is_killed_for_its_memory_says_so(cluster: Cluster, folder: Path) -> None:
    """All ranks are killed and so are their supervisors: the batch script is what is left to write the note."""
    long = ("--set", "rounds=1000000", "--set", "name=large")
    job = submit(cluster, folder, "tiny.yaml", "--cpu", "--ranks", "2", "--mem", "180M", *long)
    cluster.wait_for_state(job, "FAILED", 60)
    (note,) = (folder / "results" / "large").glob("*.failed.json")
    assert json.loads(note.read_text())["reason"].startswith("OUT_OF_MEMORY: Slurm had granted 180 MB a CPU; ask for")
    told = cluster.ask("python", "-m", "ppfl", "status", "tiny.yaml", *long, cwd=folder)
    assert "1 failed" in told
    assert "OUT_OF_MEMORY" in told
    job = submit(cluster, folder, "tiny.yaml", "--cpu", "--ranks", "2", "--set", "name=large")
    cluster.wait_for_state(job, "COMPLETED", 60)  # with what our estimate asks for


def rank_process(job: str, rank: str) -> int | None:
    """Return the process that computes as a rank of a job: the one with the most memory."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode(), b"SLURM_STEP_ID=0"}
    found: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        try:
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                found[int(folder.name)] = int((folder / "statm").read_text().split()[1])
        except (OSError, ValueError):
            continue
    return max(found, key=lambda process: found[process]) if found else None
