"""`ppfl pack`: what it writes is what `ppfl run` writes, and no cell can harm another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from ppfl.cli import main
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.jobs.failures import read_failure
from ppfl.jobs.owner import has_ended
from ppfl.pack.budget import Budget, Phase
from ppfl.pack.scheduler import Outcome, Task, run_tasks
from ppfl.results.layout import failed_path, shared_path
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.algorithms.cases import ADAPTORS
from tests.grids import change
from tests.mpi.test_same_bits import arrays
from tests.pack.test_sharing import wait_for
from tests.pack.work import is_starting

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
QUADRATIC = {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 3, "rows": 60}
CG = {"name": "conjugate_gradient", "steps": 2, "start": "redraw"}
BASE: dict[str, Any] = {
    "name": "packed",
    "rounds": 6,
    "precision": "float64",
    "problem": QUADRATIC,
    "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": CG},
    "evaluate": {"every": 2},
}
DIGITS: dict[str, Any] = {
    "name": "supervised",
    "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 4, "alpha": 0.3}},
    "model": {"name": "mlp", "hidden": [16]},
    "split": {"local": ["head.*"]},
    "batch_size": 16,
}
STEPS = {"name": "floral", "local_steps": 2, "batch_size": 5, "router_lr": 0.3}


def write(folder: Path, **sections: Any) -> Path:
    path = folder / "packed.yaml"
    path.write_text(yaml.safe_dump(BASE | sections))
    return path


def pack(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["pack", *map(str, arguments)], catch_exceptions=False, prog_name="ppfl")


def test_results_have_the_bytes_of_single_runs(tmp_path: Path) -> None:
    """Cells of one child share a problem, others follow on another one: no array tells the difference."""
    gd = {"name": "gradient_descent", "steps": 2, "lr": 0.05}
    cases = [
        {"algorithm.fine_tuner": CG},
        {"algorithm.fine_tuner": {"name": "exact"}, "seed": 1},
        {"algorithm.fine_tuner": {"name": "exact"}, "cohort": 2, "engine.clients_per_chunk": 3},
        {"problem": DIGITS, "algorithm.lr": 0.1, "algorithm.fine_tuner": gd, "server_optimizer": {"name": "momentum"}},
        {"problem": DIGITS, "algorithm.lr": 0.1, "algorithm.fine_tuner": gd},
        {"problem": {**DIGITS, "split": ADAPTORS}, "algorithm": {**STEPS, "lr": 0.1}},
        {"problem": {**DIGITS, "split": ADAPTORS}, "algorithm": {**STEPS, "lr": 0.2}},
        {"algorithm.fine_tuner": {"name": "exact"}},
    ]
    config = write(tmp_path, grid={"cases": cases})
    cells = load_cells(config)
    assert len(cells) == len(cases)
    done = pack(config, "--out", tmp_path / "packed", "--jobs", "2")
    assert (done.exit_code, done.stdout) == (0, f"8 complete: {tmp_path / 'packed'}\n"), done.stderr
    for digest, cell in cells.items():
        run(cell.config, tmp_path / "alone" / f"{digest}.h5", Silent(), SoloCommunicator())
        expected, got = (arrays(tmp_path / folder / f"{digest}.h5") for folder in ("alone", "packed"))
        assert expected.keys() == got.keys()
        for key, want in expected.items():
            equal = list(got[key].ravel()) == list(want.ravel()) if want.dtype == object else None
            assert equal if equal is not None else got[key].tobytes() == want.tobytes(), (cell.varying, key)
        parameters = [tmp_path / folder / f"{digest}.h5.shared.safetensors" for folder in ("alone", "packed")]
        assert parameters[0].read_bytes() == parameters[1].read_bytes()


def test_what_is_complete_is_skipped_and_what_fails_leaves_a_note(tmp_path: Path) -> None:
    # both steps pass validation; that the second must diverge is known when its problem is built
    refused = {**BASE["algorithm"], "lr": 1000.0, "fine_tuner": {"name": "exact"}}
    config = write(tmp_path, grid={"algorithm": [BASE["algorithm"], refused]})
    good, bad = load_cells(config)
    first = pack(config, "--out", tmp_path, "--jobs", "1")
    assert (first.exit_code, first.stdout) == (1, f"1 complete, 1 failed: {tmp_path}\n")
    note = read_failure(tmp_path / f"{bad}.h5")
    assert note is not None
    assert "must diverge" in note.reason
    assert (note.digest, note.rank) == (bad, 0)
    assert note.cell.startswith("algorithm=")
    assert f"failed: {bad}" in first.stderr
    assert read_failure(tmp_path / f"{good}.h5") is None
    written = (tmp_path / f"{good}.h5").stat().st_mtime_ns
    second = pack(config, "--out", tmp_path, "--jobs", "1")
    assert (second.exit_code, second.stdout) == (1, f"1 already done, 1 failed: {tmp_path}\n")
    assert (tmp_path / f"{good}.h5").stat().st_mtime_ns == written


def test_an_unfinished_result_with_parameters_is_computed(tmp_path: Path) -> None:
    """A disk that was full at the last write leaves it so."""
    config = write(tmp_path, grid={"seed": [0, 1]})
    first, second = (tmp_path / f"{digest}.h5" for digest in load_cells(config))
    assert pack(config, "--out", tmp_path).exit_code == 0
    change(first, status="running")
    written = second.stat().st_mtime_ns
    assert shared_path(first).exists()
    done = pack(config, "--out", tmp_path)
    assert (done.exit_code, done.stdout) == (0, f"1 already done, 1 complete: {tmp_path}\n"), done.stderr
    assert open_result(first).attrs["status"] == "complete"
    assert second.stat().st_mtime_ns == written


def test_a_later_success_removes_the_note(tmp_path: Path) -> None:
    config = write(tmp_path)
    (digest,) = load_cells(config)
    out = tmp_path / f"{digest}.h5"
    note = failed_path(out)
    out.write_text("in the way")
    assert pack(config, "--out", tmp_path).exit_code == 1
    assert "no HDF5 file" in note.read_text()
    out.unlink()
    assert pack(config, "--out", tmp_path, "--set", "evaluate.every=2").exit_code == 0
    assert not note.exists()


def test_a_diverged_run_is_no_failure(tmp_path: Path) -> None:
    momentum = {"name": "momentum"}
    config = write(tmp_path, algorithm={**BASE["algorithm"], "lr": 1000.0}, server_optimizer=momentum, rounds=200)
    done = pack(config, "--out", tmp_path)
    assert (done.exit_code, done.stdout) == (0, f"1 diverged: {tmp_path}\n")


def test_impossible_folders_and_parts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path)
    in_the_way = pack(config, "--out", config)
    assert (in_the_way.exit_code, "cannot make this folder" in in_the_way.stderr) == (2, True)
    for part in ("0/2", "3/2", "1", "1/2/3", "a/b", "-1/2", ""):
        refused = pack(config, "--out", tmp_path, "--part", part)
        assert (refused.exit_code, "1 ≤ K ≤ N" in refused.stderr) == (2, True), part
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    several = pack(config, "--out", tmp_path, "--ranks-per-run", "2")
    assert (several.exit_code, "without mpiexec" in several.stderr) == (2, True)


def test_parts_are_disjoint_and_cover_the_grid(tmp_path: Path) -> None:
    config = write(tmp_path, grid={"seed": [0, 1, 2, 3, 4]})
    first = pack(config, "--out", tmp_path, "--part", "1/2")
    assert first.stdout == f"3 complete: {tmp_path}\n"
    again = pack(config, "--out", tmp_path, "--part", "1/2")
    assert (again.exit_code, again.stdout) == (0, f"3 already done: {tmp_path}\n")
    second = pack(config, "--out", tmp_path, "--part", "2/2")
    assert (second.exit_code, second.stdout) == (0, f"2 complete: {tmp_path}\n")
    assert {path.stem for path in tmp_path.glob("*.h5")} == set(load_cells(config))


class Tasks:
    """A source of tasks that are all known: first those of the child's own affinity, then those of nobody else's."""

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks = tasks

    def is_exhausted(self) -> bool:
        return not self.tasks

    def take(self, affinity: str | None, elsewhere: set[str]) -> Task | None:
        wanted = [task for task in self.tasks if task.affinity == affinity]
        wanted += [task for task in self.tasks if task.affinity not in elsewhere]
        chosen = next(iter(wanted or self.tasks), None)
        if chosen is not None:
            self.tasks.remove(chosen)
        return chosen


@pytest.mark.parametrize("spawns", [False, True])
def test_children_that_are_spawned_are_our_own(spawns: bool) -> None:
    (found,) = run_tasks(
        Tasks([Task("", (("key", None),))]), 1, "tests.pack.work:make_parent", Budget(None), spawns=spawns
    )
    parent, threads, blocked = str(found.answer).split()
    assert (parent == str(os.getpid())) == spawns
    assert (threads, blocked) == ("1", "0")


def outcomes(jobs: int, *payloads: tuple[str, str], affinities: str = "", size: int = 1) -> dict[str, Outcome]:
    names = affinities or "a" * len(payloads)
    items = [(f"{n} {payload[0]}", payload) for n, payload in enumerate(payloads)]
    tasks = [Task(names[n], tuple(items[n : n + size])) for n in range(0, len(items), size)]
    found = run_tasks(Tasks(tasks), jobs, "tests.pack.work:make", Budget(None))
    return {outcome.key: outcome for outcome in found}


def test_a_killed_child_is_replaced_and_its_task_tried_once_more(tmp_path: Path) -> None:
    found = outcomes(2, ("die once", str(tmp_path / "died")), ("fail", ""), ("die", ""), ("exit", ""), ("work", ""))
    assert [key for key, outcome in found.items() if outcome.answer is None] == sorted(
        ["1 fail", "2 die", "3 exit"], key=list(found).index
    )
    assert found["0 die once"].answer
    assert found["4 work"].answer
    assert found["1 fail"].reason == "ValueError: of no use"
    assert found["1 fail"].log_tail[0].startswith("Traceback")
    assert found["2 die"].reason == "the process was killed by SIGKILL (out of memory?), 2 times"
    assert found["3 exit"].reason == "the process ended with exit code 3, 2 times"


@pytest.mark.parametrize("end", ["die", "fail"])
def test_what_a_batch_did_not_do_is_done_one_by_one(end: str) -> None:
    """One item takes its companions along, once; alone, it is the only one that fails."""
    found = outcomes(1, ("work", ""), ("work", ""), (end, ""), ("work", ""), size=4)
    assert {key for key, outcome in found.items() if outcome.answer is None} == {f"2 {end}"}
    assert len(found) == 4


@pytest.mark.parametrize("spawns", [False, True])
def test_each_child_finds_an_environment_and_the_next_in_its_place_the_same(spawns: bool) -> None:
    payloads = [*[("environment", "CHILD")] * 4, ("die", ""), *[("environment", "CHILD")] * 8]
    tasks = [Task(str(n), ((f"{n} {payload[0]}", payload),)) for n, payload in enumerate(payloads)]
    found = run_tasks(
        Tasks(tasks), 2, "tests.pack.work:make", Budget(None),
        spawns=spawns, environment_of=lambda number: {"CHILD": f"child {number}"},
    )  # fmt: skip
    answers = {outcome.answer for outcome in found}
    assert answers == {"child 0", "child 1", None}
    assert "CHILD" not in os.environ


def test_tasks_of_one_kind_stay_in_one_child() -> None:
    """Four kinds in turns, two children: each kind sees one process, unless the other child has nothing left."""
    found = outcomes(2, *[("sleep", "")] * 12, affinities="abcd" * 3)
    children = {kind: set() for kind in "abcd"}
    for key, outcome in found.items():
        children["abcd"[int(key.split()[0]) % 4]].add((outcome.answer or "").split()[0])
    assert len(set.union(*children.values())) == 2
    assert sum(len(processes) for processes in children.values()) <= 5


def test_more_jobs_than_tasks_start_no_idle_child() -> None:
    assert len(outcomes(50, ("work", ""))) == 1
    assert outcomes(2) == {}


def test_a_child_that_is_just_starting_is_told_to_stop_too() -> None:
    mark = is_starting(os.getpid())

    class UntilItStarts(Budget):
        @property
        def phase(self) -> Phase:
            return "stop" if mark.exists() else "work"

    source = Tasks([Task("", (("key", ""),))])
    try:
        found = list(run_tasks(source, 1, "tests.pack.work:make_slowly", UntilItStarts(None)))
    finally:
        mark.unlink(missing_ok=True)
    assert [(outcome.key, outcome.answer) for outcome in found] == [("key", "told")]


def descendants(pid: int) -> Iterator[int]:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from descendants(int(child))


@pytest.fixture
def long_pack(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    """Yield `ppfl pack` in the middle of a cell, the cell's result, and the process that computes it."""
    config, mark = write(tmp_path, rounds=400), tmp_path / "stays"
    (digest,) = load_cells(config)
    start = [sys.executable, "-m", "tests.pack.staying", str(mark), "200"]
    command = [*start, "pack", str(config), "--out", str(tmp_path), "--jobs", "1"]
    out = tmp_path / f"{digest}.h5"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_for(mark.exists)
        yield process, out, list(descendants(process.pid))[-1]
        process.kill()


def test_kill_9_of_a_child_costs_one_more_try(long_pack: tuple[subprocess.Popen[str], Path, int]) -> None:
    process, out, child = long_pack
    os.kill(child, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert open_result(out).attrs["status"] == "complete"


def test_children_end_with_a_killed_parent(long_pack: tuple[subprocess.Popen[str], Path, int]) -> None:
    process, out, child = long_pack
    process.kill()
    process.wait()
    wait_for(lambda: has_ended(child))
    assert open_result(out).attrs["status"] == "running"
