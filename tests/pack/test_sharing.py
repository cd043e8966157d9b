"""Several packs on one grid, packs that are stopped, and packs that are killed: nothing is lost, nothing done twice."""

from __future__ import annotations

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
import pytest
import yaml

from ppfl.config.grid import load_cells
from ppfl.jobs.states import states_of
from ppfl.pack.environment import default_jobs, without_ranks
from ppfl.results.layout import checkpoint_path, running_path, shared_path

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
BASE: dict[str, Any] = {
    "name": "shared",
    "rounds": 30,
    "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 3, "rows": 60},
    "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": {"name": "exact"}},
    "engine": {"clients_per_chunk": 3},  # keeps runs apart: nothing is computed together
    "evaluate": {"every": 10},
}


def write(folder: Path, **sections: Any) -> tuple[Path, list[Path]]:
    config = folder / "grid.yaml"
    config.write_text(yaml.safe_dump(BASE | sections))
    return config, [folder / f"{digest}.h5" for digest in load_cells(config)]


def command(config: Path, *options: object) -> list[str]:
    pack = [sys.executable, "-m", "ppfl", "pack", config, "--out", config.parent, *options]
    return list(map(str, pack))


def staying(mark: Path, config: Path) -> list[str]:
    """Return the command of a pack whose first run stays in a round, as tests.pack.staying says."""
    pack = [sys.executable, "-m", "tests.pack.staying", mark, 15, "pack", config, "--out", config.parent, "--jobs", 1]
    return list(map(str, pack))


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, cwd=ROOT, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kinds(outs: list[Path]) -> list[str]:
    return [state.kind for state in states_of(outs).values()]


@pytest.mark.slow
def test_two_packs_share_a_grid(tmp_path: Path) -> None:
    """Each run is computed by one of them, and both end when all runs have ended."""
    config, outs = write(tmp_path, grid={"seed": list(range(12))})
    with started(command(config, "--jobs", "1")) as first, started(command(config, "--jobs", "1")) as second:
        ends = [(process.communicate(timeout=300), process.returncode) for process in (first, second)]
    assert [code for _, code in ends] == [0, 0], ends
    assert kinds(outs) == ["done"] * 12
    computed = [int(said.split(" complete")[0].split()[-1]) for (said, _), _ in ends if " complete" in said]
    assert sum(computed) == 12
    assert not list(tmp_path.glob("*.incomplete-*"))


@pytest.mark.mpi
def test_ranks_of_a_launcher_share_a_grid(tmp_path: Path) -> None:
    config, outs = write(tmp_path, grid={"seed": list(range(8))})
    done = subprocess.run(
        [MPIEXEC, "-n", "2", *command(config, "--jobs", "1")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert kinds(outs) == ["done"] * 8
    for out in outs:
        with h5py.File(out) as file:
            assert file["provenance"].attrs["num_ranks"] == 1


@pytest.mark.mpi
def test_a_failed_run_is_the_exit_code_of_all_ranks_of_a_launcher(tmp_path: Path) -> None:
    refused = {**BASE["algorithm"], "lr": 1000.0}
    config, _ = write(tmp_path, grid={"algorithm": [BASE["algorithm"], refused]})
    done = subprocess.run(
        [MPIEXEC, "-n", "2", *command(config, "--jobs", "1")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("1 failed") == 2


@pytest.mark.mpi
def test_runs_of_several_ranks_are_steps_of_a_launcher(tmp_path: Path) -> None:
    config, outs = write(tmp_path, engine={}, grid={"seed": [0, 1]})
    arguments = command(config, "--ranks-per-run", "2", "--jobs", "1")
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, f"2 complete: {tmp_path}\n"), done.stderr
    for out in outs:
        with h5py.File(out) as file:
            assert file["provenance"].attrs["num_ranks"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_pack_that_is_told_to_stop_saves_and_the_next_one_goes_on(number: int, tmp_path: Path) -> None:
    config, outs = write(tmp_path, grid={"seed": [0, 1]})
    mark = tmp_path / "stays"
    with started(staying(mark, config)) as process:
        wait_for(mark.exists)
        process.send_signal(number)
        said, complaints = process.communicate(timeout=120)
    assert process.returncode == 75, complaints
    assert said == f"1 left, 1 stopped: {tmp_path}\n"
    assert sorted(kinds(outs)) == ["missing", "stopped"]
    assert not list(tmp_path.glob("*.running.json"))
    again = subprocess.run(command(config), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (again.returncode, again.stdout) == (0, f"2 complete: {tmp_path}\n"), again.stderr
    assert not any(checkpoint_path(out).exists() for out in outs)


@pytest.mark.slow
def test_a_pack_ends_before_its_time_is_over(tmp_path: Path) -> None:
    config, outs = write(tmp_path, grid={"seed": list(range(4))}, rounds=1_000_000)
    arguments = command(config, "--jobs", "1", "--time-limit", "20")
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 75, done.stderr
    assert "left" in done.stdout
    assert "done" not in kinds(outs)


@pytest.mark.slow
def test_a_pack_that_is_killed_leaves_stale_claims_which_the_next_one_takes_over(tmp_path: Path) -> None:
    config, (out,) = write(tmp_path, grid={"seed": [0]})
    mark = tmp_path / "stays"
    with started(staying(mark, config)) as process:
        wait_for(mark.exists)
        process.kill()
        process.wait()
    wait_for(lambda: kinds([out]) == ["stale"])
    assert running_path(out).exists()
    again = subprocess.run(command(config), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (again.returncode, again.stdout) == (0, f"1 complete: {tmp_path}\n"), again.stderr
    assert kinds([out]) == ["done"]


@pytest.mark.slow
def test_a_run_that_somebody_else_works_on_is_waited_for(tmp_path: Path) -> None:
    config, outs = write(tmp_path, grid={"seed": [0, 1]})
    mark = tmp_path / "stays"
    sabotaged = [sys.executable, "-m", "tests.mpi.sabotage", mark, 0, 15, "run", config]
    alone = list(map(str, [*sabotaged, "--cell", outs[0].stem, "--out", outs[0]]))
    with started(alone) as other:
        wait_for(mark.exists)
        with started(command(config)) as pack:
            wait_for(shared_path(outs[1]).exists)  # it has looked at both before
            mark.unlink()
            said, errors = pack.communicate(timeout=300)
        assert other.wait(timeout=60) == 0
    assert (pack.returncode, said) == (0, f"1 already done, 1 complete: {tmp_path}\n"), errors


def test_children_are_no_ranks_but_know_their_job() -> None:
    environment = {
        "PMI_RANK": "1", "PMI_SIZE": "2", "PMIX_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "SLURM_PROCID": "1",
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "PRTE_MCA_x": "1", "PATH": "/bin",
    }  # fmt: skip
    assert without_ranks(environment).keys() == {"SLURM_JOB_ID", "PRTE_MCA_x", "PATH"}


def test_cores_are_shared_by_the_processes_of_a_host() -> None:
    cores = len(os.sched_getaffinity(0))
    assert default_jobs(environment={}) == cores
    assert default_jobs(environment={"MPI_LOCALNRANKS": str(2 * cores)}) == 1
    assert default_jobs(environment={"SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "3"}) == 3
    assert default_jobs(4, {"SLURM_NTASKS": "9"}) == 2


LOOKS = """
import sys
from ppfl.cli import main
from ppfl.jobs.owner import Clocks
looks = open(sys.argv[1], "a+", buffering=1)

def is_stale(self, owner, folder):
    is_second = looks.tell() > 0
    looks.write("stale\\n" if is_second else "fresh\\n")
    return is_second

Clocks.is_stale = is_stale
if __name__ == "__main__":
    main(sys.argv[2:])
"""


def test_a_step_that_dies_on_another_host_is_tried_twice(tmp_path: Path) -> None:
    """Its claim stays and cannot be told from somebody else's until it is a minute old: here, when it is looked at
    again."""
    config, (out,) = write(tmp_path, engine={}, grid={"seed": [0]})
    launcher, looks = tmp_path / "launcher", tmp_path / "looks"
    claim = "{'host': 'elsewhere', 'pid': 1, 'token': 'x', 'updated': time.time()}"
    write_claim = f"import json, sys, time; open(sys.argv[1] + '.running.json', 'w').write(json.dumps({claim}))"
    launcher.write_text(
        f'#!/bin/bash\necho started >> {tmp_path}/starts\n{sys.executable} -c "{write_claim}" "${{@: -1}}"\nexit 137\n'
    )
    launcher.chmod(0o755)
    pack = [sys.executable, "-c", LOOKS, looks, *command(config, "--ranks-per-run", "2", "--jobs", "1")[3:]]
    done = subprocess.run(
        list(map(str, pack)), cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PPFL_PACK_LAUNCHER": str(launcher)}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, f"1 failed: {tmp_path}\n"), done.stderr
    assert (tmp_path / "starts").read_text().count("started") == 2
    assert looks.read_text().split()[:2] == ["fresh", "stale"]
    assert out.with_name(f"{out.name}.failed.json").exists()
