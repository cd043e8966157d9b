"""Runs that a child computes together leave what each of them leaves alone, each in its own place."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.core.errors import UserError
from ppfl.pack import cells
from ppfl.pack.run_queue import ONE_RANK
from ppfl.results.reader import open_result
from ppfl.runs import experiment
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.grids import opened, ppfl
from tests.mpi.jobs import arrays, left_beside
from tests.pack.test_pack import write

pytestmark = pytest.mark.slow

GRID: dict[str, Any] = {
    "rounds": 40,
    "evaluate": {"every": 10},
    "server_optimizer": {"name": "momentum"},
    "save": {"local": True},
    # large steps diverge, each in a round of its own
    "grid": {"problem.zeta": [0.5, 2], "algorithm.lr": [0.01, 1e6, 0.02, 1e200]},
}
LIARS: dict[str, Any] = {
    "rounds": 12,
    "save": {"local": True},
    "evaluate": {"every": 5, "reports": ["squared_norm"]},
    "grid": {"strategic": [None, {"clients": 1}, {"clients": 2, "scale": 3, "noise": 0.1}, {"clients": 1, "scale": 0}]},
}
"""Counterfactuals of one another, the plain run among them."""


def refuse(*_: Any) -> str:
    raise AssertionError("a run was computed alone")


@pytest.mark.parametrize(("grid", "statuses"), [(GRID, {"complete", "diverged"}), (LIARS, {"complete"})])
def test_every_run_has_its_own_numbers_parameters_and_name(
    grid: dict[str, Any], statuses: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "run", refuse)
    runs = load_cells(write(tmp_path, **grid))
    given = [ONE_RANK.payload(cell, tmp_path / "together" / f"{digest}.h5") for digest, cell in runs.items()]
    answers = cells.make_work()(given)
    assert set(answers) == statuses
    for (digest, cell), answer in zip(runs.items(), answers, strict=True):
        alone, together = (tmp_path / folder / f"{digest}.h5" for folder in ("alone", "together"))
        assert run(cell.config, alone, Silent(), SoloCommunicator()) == answer
        assert arrays(together) == arrays(alone), cell.varying
        assert open_result(together).attrs["digest"] == digest
        assert open_result(together).config == open_result(alone).config
        assert left_beside(together) == set()


def test_names_of_results_are_given_when_those_of_all_parameters_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of a run that fails to save its parameters; the others are complete."""
    monkeypatch.setattr(cells, "run", refuse)
    grid = load_cells(write(tmp_path, grid={"algorithm.lr": [0.01, 0.02, 0.03]}))
    folder, failing = tmp_path / "results", list(grid)[1]
    seen: list[tuple[bool, set[str]]] = []
    flush, save = os.fsync, experiment.save_shared

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append((is_folder, {path.name for path in folder.iterdir() if path.suffix in (".h5", ".safetensors")}))
        flush(descriptor)

    def save_shared(result: Path, *more: Any) -> None:
        if result.stem == failing:
            raise UserError("the disk is full")
        save(result, *more)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(experiment, "save_shared", save_shared)
    answers = cells.make_work()([ONE_RANK.payload(cell, folder / f"{digest}.h5") for digest, cell in grid.items()])
    assert [str(answer) for answer in answers] == ["complete", "the disk is full", "complete"]
    done = [digest for digest in grid if digest != failing]
    parameters = {f"{digest}.h5.shared.safetensors" for digest in done}
    results = {f"{digest}.h5" for digest in done}
    of_folders = [names for is_folder, names in seen if is_folder]
    assert of_folders == [parameters, parameters | results]
    flushed = seen.index((True, parameters))
    assert not any(names & results for _, names in seen[: flushed + 1])
    assert (folder / f"{failing}.h5.failed.json").exists()
    assert not list(folder.glob("*.running.json"))


def test_seconds_that_runs_share_are_marked_and_not_compared_with_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lrs = [0.01, 0.02, 0.03]
    grid = load_cells(write(tmp_path, grid={"algorithm.lr": lrs}))
    folder = tmp_path / "results"
    with monkeypatch.context() as patched:
        patched.setattr(cells, "run", refuse)
        cells.make_work()([ONE_RANK.payload(cell, folder / f"{digest}.h5") for digest, cell in grid.items()])
    first = folder / f"{next(iter(grid))}.h5"
    assert open_result(first).provenance["seconds_shared_by"] == 3
    collected = tmp_path / "collected.h5"
    assert ppfl("collect", folder, "--out", collected).exit_code == 0
    assert opened(collected).seconds_shared_by.to_numpy().tolist() == [3, 3, 3]
    drawing, table = ("plot", "--out", tmp_path / "a.svg"), ("table",)
    by_seconds = [(*drawing, "--x", "seconds"), (*drawing, "--metric", "seconds"), (*table, "--metric", "seconds")]
    for source in (folder, collected):
        for words in by_seconds:
            told = ppfl(*words, source)
            assert told.exit_code == 0
            assert "equal shares of the time of 3 runs computed together" in told.stderr
    assert "equal shares" in (tmp_path / "a.svg").read_text()
    first.unlink()
    run(next(iter(grid.values())).config, first, Silent(), SoloCommunicator())
    assert "seconds_shared_by" not in open_result(first).provenance
    assert ppfl("collect", folder, "--out", collected).exit_code == 0
    assert opened(collected).seconds_shared_by.to_numpy().tolist() == [1, 3, 3]
    for source in (folder, collected):
        for words in by_seconds:
            refused = ppfl(*words, source)
            assert refused.exit_code == 2
            assert f"{words[-2]} seconds: 2 of 3 runs were computed together with others" in refused.stderr
            # those of one kind are drawn, and what is no time of course
            assert ppfl(*words, source, "--where", "lr=0.01").exit_code == 0
        assert ppfl(*drawing, "--x", "gradients", source).exit_code == 0
