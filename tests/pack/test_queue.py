"""In which pieces the runs of a grid are handed out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ppfl.config.grid import load_cells
from ppfl.jobs.claim import Claim
from ppfl.jobs.failures import Failure, write_failure
from ppfl.pack import run_queue as module
from ppfl.pack.run_queue import ONE_RANK, RunQueue
from ppfl.pack.scheduler import Task

BASE: dict[str, Any] = {
    "name": "queue",
    "rounds": 6,
    "problem": {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 3, "rows": 60},
    "algorithm": {"name": "ffgg", "lr": 0.01, "fine_tuner": {"name": "exact"}},
}


def queue(folder: Path, jobs: int, beginning: float = 0.0, **sections: Any) -> RunQueue:
    path = folder / "queue.yaml"
    path.write_text(yaml.safe_dump(BASE | sections))
    return RunQueue(load_cells(path), folder, jobs, beginning, ONE_RANK)


def seeds(task: Task | None) -> list[int]:
    assert task is not None
    return [one.config.seed for _, one in task.items]


def all_of(runs: RunQueue) -> list[Task]:
    tasks = []
    while (task := runs.take(None, set())) is not None:
        tasks.append(task)
    return tasks


@pytest.mark.parametrize("beginning", [0.0, 0.31])
def test_no_problem_is_built_twice_where_batches_can_have_it_whole(tmp_path: Path, beginning: float) -> None:
    steps = [0.001 * number for number in range(1, 8)]
    runs = queue(tmp_path, 2, beginning, grid={"algorithm.lr": steps, "seed": list(range(40))})
    # until there is less than one problem for each child
    tasks = [task for task in all_of(runs) if len(task.items) >= len(steps)]
    assert max(len(task.items) for task in tasks) == module.MAX_BATCH // 7 * 7
    of_tasks = [set(seeds(task)) for task in tasks]
    split = {seed for found in of_tasks for seed in found if sum(seed in other for other in of_tasks) > 1}
    # a beginning in the middle of a problem may split that one
    assert len(split) <= (1 if beginning else 0)


def test_every_run_is_handed_out_once(tmp_path: Path) -> None:
    grid = {"algorithm.lr": [0.01, 0.02, 0.03], "seed": list(range(50)), "problem.zeta": [0.5, 1]}
    runs = queue(tmp_path, 3, grid=grid)
    left = runs.left
    handed = [digest for task in all_of(runs) for digest, _ in task.items]
    assert sorted(handed) == sorted(left)
    assert len(set(handed)) == 300


def test_the_rest_of_a_large_problem_goes_to_whoever_has_it(tmp_path: Path) -> None:
    steps = [0.0001 * number for number in range(1, 101)]
    runs = queue(tmp_path, 1, grid={"algorithm.lr": steps, "seed": [0, 1, 2]})
    first = runs.take(None, set())
    assert first is not None
    assert set(seeds(first)) == {0}
    other = runs.take(None, {first.affinity})
    assert set(seeds(other)) == {1}
    rest = runs.take(first.affinity, {other.affinity} if other else set())
    # and with it no more than begins the next one that nobody is at
    assert seeds(rest)[: len(steps) - len(first.items)] == [0] * (len(steps) - len(first.items))


def test_counterfactuals_go_together(tmp_path: Path) -> None:
    lies = [None, {"clients": 1, "scale": 2}, {"clients": 2, "scale": 0, "noise": 1}]
    runs = queue(tmp_path, 1, grid={"strategic": lies})
    assert [len(task.items) for task in all_of(runs)] == [3]


def test_batches_are_bounded_by_what_a_kill_may_lose(tmp_path: Path) -> None:
    rounds = module.MAX_CLIENT_ROUNDS // 3 // 5
    runs = queue(tmp_path, 1, grid={"seed": list(range(20))}, rounds=rounds)
    assert {len(task.items) for task in all_of(runs)} == {5}


def test_batches_are_bounded_by_the_memory_of_their_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of one problem share it, so that there may be more of them."""
    runs = queue(tmp_path, 1, grid={"seed": list(range(6)), "algorithm.lr": [0.001, 0.002]})
    of_one = runs._waiting[runs.left[0]].problem_bytes
    assert of_one > 0
    monkeypatch.setattr(module, "MAX_PROBLEM_BYTES", 2 * of_one)
    assert [len(task.items) for task in all_of(runs)] == [4, 4, 4]
    runs = queue(tmp_path, 1, grid={"seed": list(range(3)), "algorithm.lr": [0.001, 0.002]})
    monkeypatch.setattr(module, "MAX_PROBLEM_BYTES", of_one - 1)
    assert {len(task.items) for task in all_of(runs)} <= {1, 2}


def test_runs_that_are_large_by_themselves_go_alone(tmp_path: Path) -> None:
    runs = queue(tmp_path, 1, grid={"seed": list(range(4))}, rounds=11_000)
    assert [len(task.items) for task in all_of(runs)] == [1, 1, 1, 1]


@pytest.mark.parametrize("listed", [0, 10**6])
def test_what_others_took_or_did_is_left_out_however_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    runs = queue(tmp_path, 1, grid={"seed": list(range(8))})
    monkeypatch.setattr(module, "_LISTED_WHILE_ONE_IS_ASKED", listed)
    failed, claimed, *others = runs.left
    write_failure(tmp_path / f"{failed}.h5", Failure(digest=failed, reason="of another pack"))
    claim = Claim(tmp_path / f"{claimed}.h5", 1, 6)
    (task,) = all_of(runs)
    claim.release()
    assert [digest for digest, _ in task.items] == others
    assert runs.counts["failed"] == 1
    assert [out.stem for out in runs.elsewhere] == [claimed]
