"""Runs of networks that a child computes side by side on a device leave what each of them leaves alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.core import devices
from ppfl.engine.mapping import batched_runs
from ppfl.jobs.attempt import Attempt
from ppfl.jobs.run_log import tries
from ppfl.pack import cells, side_by_side
from ppfl.pack.cells import LastProblem
from ppfl.pack.run_queue import ONE_RANK, RunOfCell, RunQueue
from ppfl.pack.together import run_together
from ppfl.results.layout import checkpoint_path
from ppfl.results.parameters import load_local, load_shared
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.mpi.jobs import arrays as bytes_of
from tests.mpi.jobs import left_beside
from tests.mpi.test_same_bits import arrays

if TYPE_CHECKING:
    from ppfl.config.grid import Cell

pytestmark = pytest.mark.slow

BASE: dict[str, Any] = {
    "name": "cards",
    "rounds": 6,
    "precision": "float64",
    "problem": {
        "name": "supervised",
        "dataset": {"name": "digits", "partition": {"name": "dirichlet", "clients": 4, "alpha": 0.3}},
        "model": {"name": "mlp", "hidden": [8]},
        "split": {"local": ["head.*"]},
        "batch_size": 16,
    },
    "algorithm": {
        "name": "fedalt", "lr": 0.1, "epochs": 1, "batch_size": 6,
        "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1},
    },
    "evaluate": {"every": 2},
    "save": {"local": True},
    "checkpoint": {"every_rounds": 2},
    "grid": {"algorithm.lr": [0.05, 0.1], "seed": [0, 1]},
}  # fmt: skip


def never() -> bool:
    return False


def grid_of(folder: Path, **sections: Any) -> dict[str, Cell]:
    path = folder / "cards.yaml"
    path.write_text(yaml.safe_dump(BASE | sections))
    return load_cells(path)


def runs_of(grid: dict[str, Cell], folder: Path) -> list[RunOfCell]:
    return [ONE_RANK.payload(cell, folder / f"{digest}.h5") for digest, cell in grid.items()]


def alone(one: RunOfCell, out: Path) -> str:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(devices, "is_host", lambda device: True)
        return run(one.config, out, Silent(), SoloCommunicator())


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "is_host", lambda device: False)


@pytest.fixture
def rounds_together(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Note how many runs were computed together in which round."""
    seen: list[tuple[int, int]] = []
    compute = batched_runs.BatchedRuns.compute

    def noting(self: Any, round: int, runs: Any) -> None:
        seen.append((round, len(runs)))
        compute(self, round, runs)

    monkeypatch.setattr(batched_runs.BatchedRuns, "compute", noting)
    return seen


def assert_as_alone(runs: list[RunOfCell], folder: Path) -> None:
    for one in runs:
        expected = folder / f"alone-{one.out.name}"
        alone(one, expected)
        found, wanted = values(one.out), values(expected)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-10, err_msg=name)
        assert open_result(one.out).attrs["digest"] == one.config.digest
        assert left_beside(one.out) == set()


def values(path: Path) -> dict[str, np.ndarray]:
    """Return all numbers of a result and its parameters."""
    found = {name: value for name, value in arrays(path).items() if value.dtype != object}
    found |= {f"shared/{name}": value.numpy() for name, value in load_shared(path).items()}
    return found | {
        f"local/{client}/{name}": value.numpy()
        for client, params in load_local(path).items()
        for name, value in params.items()
    }


@pytest.mark.usefixtures("device")
def test_results_are_those_of_runs_alone(tmp_path: Path, rounds_together: list[tuple[int, int]]) -> None:
    runs = runs_of(grid_of(tmp_path), tmp_path / "together")
    assert run_together(runs, LastProblem(), never) == ["complete"] * 4
    assert rounds_together == [(round, 4) for round in range(6)]
    assert_as_alone(runs, tmp_path)
    for one in runs:
        assert open_result(one.out).provenance["seconds_shared_by"] == 4
        (log,) = tries(one.out).values()
        assert "computed together with 3 other runs" in log.read_text()
        assert "complete after" in log.read_text()


@pytest.mark.usefixtures("device")
def test_no_second_is_told_twice(tmp_path: Path) -> None:
    """Runs do not count the time in which they wait for others."""
    runs = runs_of(grid_of(tmp_path), tmp_path / "together")
    started = time.perf_counter()
    run_together(runs, LastProblem(), never)
    elapsed = time.perf_counter() - started
    told = [open_result(one.out).seconds for one in runs]
    assert all(min(seconds.values()) >= 0 and seconds["rounds"] > 0 for seconds in told)
    assert sum(sum(seconds.values()) for seconds in told) <= elapsed


@pytest.mark.usefixtures("device")
def test_a_run_that_diverges_or_fails_does_so_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds_together: list[tuple[int, int]]
) -> None:
    runs = runs_of(grid_of(tmp_path, grid={"algorithm.lr": [0.05, 1e200, 0.1, 0.2]}), tmp_path / "together")
    told = Attempt.told

    def fail(self: Attempt, round: int) -> None:
        if self.out == runs[2].out and round == 3:
            raise ValueError("the disk is full")
        told(self, round)

    monkeypatch.setattr(Attempt, "told", fail)
    answers = run_together(runs, LastProblem(), never)
    monkeypatch.setattr(Attempt, "told", told)
    assert [str(answer) for answer in answers] == ["complete", "diverged", "the disk is full", "complete"]
    assert {number for _, number in rounds_together[:1]} == {4}
    assert rounds_together[-1] == (5, 2)
    assert_as_alone([runs[0], runs[3]], tmp_path)
    assert checkpoint_path(runs[2].out).exists()


@pytest.mark.usefixtures("device")
def test_runs_that_end_early_leave_the_others(tmp_path: Path, rounds_together: list[tuple[int, int]]) -> None:
    """Each with its best round: the others are what they are with or without them."""
    evaluate = {"every": 1, "history": True, "best_round": {"patience": 1}, "tuned": None}
    grid = {"algorithm.lr": [0.05, 0.8, 1.0, 0.02]}
    runs = runs_of(grid_of(tmp_path, rounds=12, evaluate=evaluate, grid=grid), tmp_path / "together")
    assert run_together(runs, LastProblem(), never) == ["complete"] * 4
    assert_as_alone(runs, tmp_path)
    last = [open_result(one.out).best_round["last_round"] for one in runs]
    first = min(last)
    assert first < max(last)
    assert {(round < first, number < 4) for round, number in rounds_together} == {(True, False), (False, True)}


class Killed(BaseException):
    """Stands for a signal that nobody can handle."""


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_runs_go_on_alone_from_their_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    runs = runs_of(grid_of(tmp_path), tmp_path / "together")
    compute, done = batched_runs.BatchedRuns.compute, []

    def until(self: Any, round: int, members: Any) -> None:
        if round == 5 and how == "killed":
            raise Killed
        done.append(round)
        compute(self, round, members)

    with monkeypatch.context() as patched:
        patched.setattr(batched_runs.BatchedRuns, "compute", until)
        if how == "stopped":
            assert run_together(runs, LastProblem(), lambda: len(done) == 5) == ["stopped"] * 4
        else:
            with pytest.raises(Killed):
                run_together(runs, LastProblem(), never)
    from_round = 5 if how == "stopped" else 4
    monkeypatch.setattr(side_by_side, "run_side_by_side", refuse)
    # the child of the next pack: what has a checkpoint is left to go on alone
    assert cells.make_work()(runs) == ["complete"] * 4
    for one in runs:
        assert f"goes on at round {from_round} of 6" in list(tries(one.out).values())[-1].read_text()
        assert open_result(one.out).provenance["seconds_shared_by"] == 4, "its first seconds are shares"
    assert_as_alone(runs, tmp_path)


def refuse(*_: Any) -> Any:
    raise AssertionError("this way is not to be taken")


@pytest.mark.usefixtures("device")
def test_too_little_memory_makes_runs_compute_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = runs_of(grid_of(tmp_path), tmp_path / "together")

    def fails(self: Any, round: int, members: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(batched_runs.BatchedRuns, "compute", fails)
    assert run_together(runs, LastProblem(), never) == ["complete"] * 4
    assert [record.message for record in caplog.records] == [
        "clients of 4 runs are computed run by run: CUDA out of memory"
    ]
    assert_as_alone(runs, tmp_path)


@pytest.mark.usefixtures("device")
def test_as_many_go_together_as_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds_together: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(side_by_side, "most_runs", lambda setup: 2)
    runs = runs_of(grid_of(tmp_path, grid={"algorithm.lr": [0.01 * k for k in range(1, 6)]}), tmp_path / "together")
    # of five runs two pairs, and one that is left to go alone
    assert sorted(map(str, run_together(runs, LastProblem(), never))) == ["None"] + ["complete"] * 4
    assert [number for _, number in rounds_together] == [2] * 12


def test_on_a_host_runs_go_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppfl.pack.together.run_side_by_side", refuse)
    runs = runs_of(grid_of(tmp_path), tmp_path / "together")
    assert run_together(runs, LastProblem(), never) == [None] * 4
    assert cells.make_work()(runs) == ["complete"] * 4
    for one in runs:
        expected = tmp_path / f"alone-{one.out.name}"
        alone(one, expected)
        assert bytes_of(one.out) == bytes_of(expected)


@pytest.fixture
def queue(tmp_path: Path) -> Callable[..., list[int]]:
    def sizes(executor: Any, **sections: Any) -> list[int]:
        grid = grid_of(tmp_path, **sections)
        waiting = RunQueue(grid, tmp_path, 2, 0.0, executor)
        found = []
        while (task := waiting.take(None, set())) is not None:
            found.append(len(task.items))
        return found

    return sizes


def test_a_pack_hands_them_out_together_where_children_find_cards(queue: Callable[..., list[int]]) -> None:
    cards = replace(ONE_RANK, has_cards=True)
    grid = {"algorithm.lr": [0.05, 0.1], "algorithm.fine_tuner.lr": [0.1, 0.2], "seed": [0, 1, 2]}
    assert queue(ONE_RANK, grid=grid) == [1] * 12
    assert queue(cards, grid=grid) == [4, 4, 4], "whole problems"
    assert queue(cards, grid=grid, engine={"device": "cpu"}) == [1] * 12
    assert queue(cards, grid=grid, aggregator={"name": "median"}) == [1] * 12
    # each problem has its samples
    assert queue(cards, grid={"seed": list(range(40))})[:3] == [8, 8, 8]
    # what is no number alone
    assert queue(cards, grid={"algorithm.epochs": [1, 2], "algorithm.lr": [0.1, 0.2, 0.3, 0.4]}) == [2, 2, 2, 2]
