"""Stages that start from each other, in one call of Snakemake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml

from ppfl.config.grid import load_cells
from ppfl.jobs.states import state_of
from tests.runs.started import PARTIAL, personalized, problem, write
from tests.workflow.test_workflow import ROOT, snakemake

pytestmark = pytest.mark.workflow

STAGES = ("pre", "per", "fine")


def write_stages(folder: Path, *, rounds: int = 3, **workflow: Any) -> Path:
    """Write three stages, the last a grid that alone is listed; return the configuration of the workflow."""
    write(folder, "pre", rounds=rounds)
    local = {"problem.split.local": [["head.*"], ["hidden1.*"]]}
    personalized(folder, "per", start={"config": "pre.yaml"}, save={"local": True}, grid=local)
    start = {"config": "per.yaml", "set": {"problem.split.local": ["head.*"]}}
    personalized(folder, "fine", start=start, grid={"algorithm.lr": [0.1, 0.02]})
    path = folder / "workflow.yaml"
    path.write_text(yaml.safe_dump({"experiments": [str(folder / "fine.yaml")], "ranks": 2, **workflow}))
    return path


def results(folder: Path) -> dict[str, dict[Path, int]]:
    """Return {stage: {result: time of its last change}}."""
    found = {stage: (folder / "results" / stage).glob("*.h5") for stage in STAGES}
    return {stage: {path: path.stat().st_mtime_ns for path in paths} for stage, paths in found.items()}


@pytest.mark.mpi
def test_three_stages_run_in_one_call_and_what_changes_runs_again(tmp_path: Path) -> None:
    call = ("--cores", "2", "--configfile", str(write_stages(tmp_path)))
    done = snakemake(tmp_path, *call)
    assert done.returncode == 0, done.stdout + done.stderr
    first = results(tmp_path)
    # of the grid in the middle the one run that is started from
    assert {stage: len(paths) for stage, paths in first.items()} == {"pre": 1, "per": 1, "fine": 2}
    for path in first["fine"]:
        with h5py.File(path) as file:
            assert file["provenance"].attrs["num_ranks"] == 2
            assert file["provenance"].attrs["start"].startswith(str(next(iter(first["per"]))))
    # nothing is left, also where what a run started from is as young as it likes: its digest says what it was
    os.utime(next(iter(first["pre"])))
    assert "Nothing to be done" in "".join((again := snakemake(tmp_path, *call)).stdout + again.stderr)
    write_stages(tmp_path, rounds=4, ranks=1)  # which runs there are does not depend on how many ranks compute them
    done = snakemake(tmp_path, *call)
    assert done.returncode == 0, done.stdout + done.stderr
    second = results(tmp_path)
    assert {stage: len(paths) for stage, paths in second.items()} == {"pre": 2, "per": 2, "fine": 4}
    assert {path.stem for path in second["fine"]} > set(load_cells(tmp_path / "fine.yaml"))
    # a stage in the middle: what comes before stays as it is
    personalized(tmp_path, "per", rounds=2, start={"config": "pre.yaml"}, save={"local": True}, grid=local_grid())
    done = snakemake(tmp_path, *call)
    assert done.returncode == 0, done.stdout + done.stderr
    third = results(tmp_path)
    assert {stage: len(paths) for stage, paths in third.items()} == {"pre": 2, "per": 3, "fine": 6}
    assert third["pre"] == second["pre"]


def local_grid() -> dict[str, Any]:
    return {"problem.split.local": [["head.*"], ["hidden1.*"]]}


def test_a_workflow_that_was_killed_goes_on_in_the_middle(tmp_path: Path) -> None:
    """With the run that was at work; the stage before is not computed again."""
    configuration = write_stages(tmp_path, ranks=1)
    slow = {"rounds": 3000, "checkpoint": {"every_rounds": 50}, "evaluate": {"every": 3000}}
    personalized(tmp_path, "per", start={"config": "pre.yaml"}, save={"local": True}, grid=local_grid(), **slow)
    project = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    command = [sys.executable, "-m", "snakemake", *project, "--cores", "1", "--configfile", str(configuration)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    ) as running:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "results").glob("per/running/*.checkpoint/current.json")):
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGKILL)
    (pre,) = results(tmp_path)["pre"]
    before = pre.stat().st_mtime_ns
    done = snakemake(tmp_path, "--unlock", "--cores", "1", "--configfile", str(configuration))
    assert done.returncode == 0, done.stdout + done.stderr
    done = snakemake(tmp_path, "--cores", "1", "--rerun-incomplete", "--configfile", str(configuration))
    (per,) = results(tmp_path)["per"]
    log = (tmp_path / "logs" / "per" / f"{per.stem}.log").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert "goes on at round" in log
    assert state_of(per).kind == "done"
    assert pre.stat().st_mtime_ns == before
    assert len(results(tmp_path)["fine"]) == 2


def test_packs_wait_for_what_their_runs_start_from(tmp_path: Path) -> None:
    """Of packs, too: the last stage and the one in the middle are packed, the first is not."""
    write(tmp_path, "pre")
    seeds = {"zip": [{"seed": [0, 1, 2], "start.set.seed": [0, 1, 2]}]}
    sections = {"problem": problem("head.*"), "algorithm": PARTIAL}
    write(tmp_path, "per", start={"config": "pre.yaml"}, save={"local": True}, grid=seeds, **sections)
    write(tmp_path, "fine", start={"config": "per.yaml"}, grid=seeds, **sections)
    path = tmp_path / "workflow.yaml"
    packs = {"experiments": ["per", "fine"], "runs": 2}
    listed = [str(tmp_path / f"{stage}.yaml") for stage in ("fine", "per")]
    path.write_text(yaml.safe_dump({"experiments": listed, "ranks": 1, "packs": packs}))
    done = snakemake(tmp_path, "--cores", "2", "--configfile", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {stage: len(paths) for stage, paths in results(tmp_path).items()} == {"pre": 3, "per": 3, "fine": 3}
    for stage in ("per", "fine"):
        assert {path.name for path in (tmp_path / "results" / stage / "packs").iterdir()} == {
            "1-of-2.done",
            "2-of-2.done",
        }
    again = snakemake(tmp_path, "--cores", "2", "--configfile", str(path))
    assert "Nothing to be done" in again.stdout + again.stderr
