"""Snakemake on a cluster: the text that reaches sbatch, and a grid to its end."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import yaml

from ppfl.config.grid import load_cells
from tests.slurm.cluster import Cluster

ROOT = Path(__file__).parent.parent.parent
PROFILE = ["--workflow-profile", str(ROOT / "profiles" / "slurm")]
TINY = {"experiments": ["configs/test/quadratic.yaml"], "ranks": 2}


def command(folder: Path, *arguments: str, **config: object) -> list[str]:
    """Return the command that runs a small grid in a folder, as on a login node."""
    (folder / "workflow.yaml").write_text(yaml.safe_dump(TINY | config))
    project = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), *PROFILE]
    quick = ["--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"]
    configured = ["--configfile", str(folder / "workflow.yaml")]
    return [sys.executable, "-m", "snakemake", *arguments, *project, *quick, *configured]


@pytest.mark.parametrize(
    ("config", "expected", "memory_mb"),
    [
        ({}, {"--ntasks=2", "--cpus-per-task=1"}, 1400),
        ({"gpus": True, "ranks": 4}, {"--ntasks=4", "--cpus-per-task=1", "--gpus-per-task=1"}, 4450),
        ({"ranks": 1}, {"--ntasks=1", "--cpus-per-task=1"}, 1400),
    ],
)
def test_what_sbatch_is_asked_for(
    cluster: Cluster, tmp_path: Path, config: dict[str, object], expected: set[str], memory_mb: int
) -> None:
    """The executor calls a sbatch that writes down its arguments and refuses."""
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/calls\nexit 1\n')
    fake.chmod(0o755)
    path = f"{fake.parent}:{cluster.environment['PATH']}"
    digest = next(iter(load_cells(ROOT / "configs" / "test" / "quadratic.yaml")))
    cluster.run(*command(tmp_path, f"results/tiny_quadratic/{digest}.h5", **config), cwd=tmp_path, PATH=path)
    words = shlex.split((tmp_path / "calls").read_text().splitlines()[0].partition("--wrap")[0])
    resources = {word for word in words if word.startswith(("--nt", "--cp", "--gp", "--gres", "--nodes"))}
    assert resources == expected
    assert {"--signal=USR1@60", "--requeue", "--open-mode=append"} <= set(words)
    assert words[words.index("-t") + 1] == "60"
    # what a rank needs, and the two Snakemakes in the job, which may share their node with one rank only
    assert words[words.index("--mem-per-cpu") + 1] == str(memory_mb)


def test_a_grid_on_two_nodes_runs_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    arguments = command(tmp_path, "results/figures/tiny_quadratic.svg", "--set-resources", "experiment:nodes=2")
    done = subprocess.run(
        arguments, cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, timeout=300, check=False
    )
    logs = "".join(path.read_text() for path in sorted((tmp_path / "logs").rglob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert (tmp_path / "results" / "figures" / "tiny_quadratic.svg").exists()
    for digest in load_cells(ROOT / "configs" / "test" / "quadratic.yaml"):
        with h5py.File(tmp_path / "results" / "tiny_quadratic" / f"{digest}.h5") as file:
            found = dict(file["provenance"].attrs)
            assert (file.attrs["complete"], found["num_ranks"]) == (1, 2)
            job = Path(tmp_path, "logs", "slurm").rglob(f"*{digest}/*.log")
            assert cluster.fact(next(job).stem, "NodeList") == "n[0-1]"
    assert not list((tmp_path / "results" / "tiny_quadratic" / "running").iterdir())


def test_packs_are_jobs_of_one_process(cluster: Cluster, tmp_path: Path) -> None:
    grid = tmp_path / "many.yaml"
    base = yaml.safe_load((ROOT / "configs" / "test" / "quadratic.yaml").read_text(encoding="utf-8"))
    grid.write_text(yaml.safe_dump(base | {"name": "many", "grid": {"seed": list(range(6))}}))
    packs = {"experiments": ["many"], "runs": 3, "cores": 2, "minutes": 5}
    markers = [f"results/many/packs/{part}-of-2.done" for part in (1, 2)]
    done = subprocess.run(
        command(tmp_path, *markers, experiments=[str(grid)], packs=packs),
        cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    logs = "".join(path.read_text() for path in sorted((tmp_path / "logs").rglob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert {path.stem for path in (tmp_path / "results" / "many").glob("*.h5")} == set(load_cells(grid))
    jobs = [path.stem for path in (tmp_path / "logs" / "slurm" / "rule_pack").rglob("*.log")]
    assert [cluster.fact(job, "NumCPUs") for job in jobs] == ["2", "2"]
    assert [cluster.fact(job, "TimeLimit") for job in jobs] == ["00:10:00", "00:10:00"]
