"""Newcomers of whole runs: packed, stopped, started from others, shown and compared."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import ppfl
from ppfl.cli import main
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.config.run import load
from ppfl.jobs.attempt import Caller
from ppfl.pack import cells
from ppfl.pack.run_queue import ONE_RANK
from ppfl.results.parameters import load_local, load_shared
from ppfl.results.reader import open_result
from ppfl.runs.assemble import build
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.mpi.jobs import arrays, left_beside
from tests.runs.started import ALL_SHARED, PARTIAL, go, problem, setup_of, write

GD: dict[str, Any] = {"name": "gradient_descent", "steps": 1, "lr": 0.2}
NEWCOMERS: dict[str, Any] = {"clients": ["1", "4"], "fine_tuner": GD}
EVALUATE: dict[str, Any] = {"every": 2, "tuned": None, "newcomers": NEWCOMERS}
SECTIONS: dict[str, Any] = {"problem": problem("head.*", clients=6), "algorithm": PARTIAL, "rounds": 4}
SAVED: dict[str, Any] = {**SECTIONS, "save": {"local": True}}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_pack_leaves_what_runs_alone_leave(tmp_path: Path) -> None:
    """Runs that hold others out, or nobody, share no problem, though all else of theirs is the same."""
    grid = {"evaluate.newcomers": [None, 0.2, {**NEWCOMERS, "in_rounds": True}, ["1", "2"]], "algorithm.lr": [0.1, 0.2]}
    path = write(tmp_path, "grid", **SAVED, evaluate={"tuned": {"fine_tuner": GD}}, grid=grid)
    found = load_cells(path)
    given = [ONE_RANK.payload(cell, tmp_path / "packed" / f"{digest}.h5") for digest, cell in found.items()]
    assert cells.make_work()(given) == ["complete"] * 8
    for digest, cell in found.items():
        packed, alone = tmp_path / "packed" / f"{digest}.h5", tmp_path / "alone" / f"{digest}.h5"
        assert run(cell.config, alone, Silent(), SoloCommunicator()) == "complete"
        assert arrays(packed) == arrays(alone), cell.varying
        assert ("newcomers" in "".join(arrays(alone))) == (cell.config.evaluate.newcomers is not None)
        assert left_beside(packed) == set()


@pytest.mark.parametrize(
    "sections",
    [
        {"evaluate": {**EVALUATE, "newcomers": {**NEWCOMERS, "in_rounds": True}}, "cohort": 2},
        {"asynchronous": {"engine": "virtual", "concurrency": 2}, "compute_times": {"name": "exponential"}},
    ],
    ids=["in rounds", "virtual clock"],
)
def test_a_run_that_goes_on_ends_with_the_same_bytes(tmp_path: Path, sections: dict[str, Any]) -> None:
    config = load(write(tmp_path, "run", **{**SAVED, "evaluate": EVALUATE, **sections}))
    whole, pieces, seen = tmp_path / "whole.h5", tmp_path / "pieces.h5", 0

    def told(done: int) -> None:
        nonlocal seen
        seen = done

    assert run(config, whole, Silent(), SoloCommunicator()) == "complete"
    stopping = Caller(told=told, wants_stop=lambda: seen == 2)
    assert run(config, pieces, Silent(), SoloCommunicator(), caller=stopping) == "stopped"
    unfinished = open_result(pieces)
    assert unfinished.newcomers.client.to_numpy().tolist() == ["1", "4"]
    assert "test_loss" not in unfinished.newcomers
    assert run(config, pieces, Silent(), SoloCommunicator()) == "complete"
    assert arrays(pieces) == arrays(whole)


def test_they_are_shown_compared_and_read(tmp_path: Path) -> None:
    config = go(write(tmp_path, "run", **SECTIONS, evaluate=EVALUATE))
    out = config.default_out()
    shown = CliRunner().invoke(main, ["show", str(out)], catch_exceptions=False).output
    assert "Final metrics over all clients that train, and over newcomers after some steps" in shown
    assert "newcomers_5" in shown
    tree = ppfl.open_result(out)
    of_summary = tree["summary"].test_accuracy.sel(stage="newcomers_5", statistic="mean")
    theirs = tree["newcomers"].test_accuracy.sel(steps=5)
    assert float(theirs.mean()) == pytest.approx(float(of_summary), rel=1e-15)
    assert tree["problem"].attrs["num_newcomers"] == 2
    assert "1" not in tree["clients"].client.to_numpy()
    table = CliRunner().invoke(main, ["table", str(out), "--format", "csv"], catch_exceptions=False).output
    assert "newcomers_5" in table
    assert f"{float(of_summary)!r}" in table
    collected = ["collect", str(out), "--out", "all.h5"]
    assert CliRunner().invoke(main, collected, catch_exceptions=False).exit_code == 0
    again = CliRunner().invoke(main, ["table", "all.h5", "--format", "csv"], catch_exceptions=False).output
    assert again == table
    plain = go(write(tmp_path, "plain", **SECTIONS)).default_out()
    assert not open_result(plain).newcomers.sizes
    assert "newcomer" not in CliRunner().invoke(main, ["show", str(plain)], catch_exceptions=False).output


def test_a_run_that_starts_from_another_gives_them_its_theta_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The clients that train begin at their own heads, which newcomers have none of."""
    first = go(write(tmp_path, "first", **SAVED, evaluate=EVALUATE))
    second = write(tmp_path, "second", **SECTIONS, evaluate=EVALUATE, start={"config": "first.yaml"})
    with caplog.at_level(logging.WARNING):
        setup = setup_of(second)
    assert not caplog.records
    theta, own = load_shared(first.default_out()), load_local(first.default_out())
    assert setup.newcomers is not None
    theirs, trained = setup.newcomers.problem, setup.problem
    assert theirs.objective.init_shared().keys() == theta.keys()
    for objective in (theirs.objective, trained.objective):
        assert all(torch.equal(value, theta[name]) for name, value in objective.init_shared().items())
    drawn = build(load(tmp_path / "first.yaml"), SoloCommunicator()).problem.objective
    for client in range(2):
        assert all(torch.equal(x, drawn.init_local(0)[name]) for name, x in theirs.objective.init_local(client).items())
    for client, values in enumerate(own.values()):
        begun = trained.objective.init_local(client)
        assert all(torch.equal(value, values[name]) for name, value in begun.items())


def test_whole_models_that_become_local_begin_at_theta(tmp_path: Path) -> None:
    shared = {**SECTIONS, "problem": problem(clients=6), "algorithm": ALL_SHARED}
    first = go(write(tmp_path, "first", **shared, evaluate=EVALUATE))
    setup = setup_of(write(tmp_path, "second", **SECTIONS, evaluate=EVALUATE, start={"config": "first.yaml"}))
    theta = load_shared(first.default_out())
    assert setup.newcomers is not None
    begun = setup.newcomers.problem.objective.init_local(1)
    assert begun
    assert all(torch.equal(value, theta[name]) for name, value in begun.items())


def test_a_start_that_has_trained_on_them_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = {**SECTIONS, "problem": problem(clients=6), "algorithm": ALL_SHARED}
    go(write(tmp_path, "first", **shared))
    second = write(tmp_path, "second", **shared, evaluate=EVALUATE, start={"config": "first.yaml"})
    with caplog.at_level(logging.WARNING):
        setup_of(second)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("evaluate.newcomers: client 1 and 1 others trained in the run that this one starts from")


def test_a_grid_may_vary_who_is_held_out_and_what_they_do(tmp_path: Path) -> None:
    evaluate = {"tuned": {"fine_tuner": GD}}
    path = write(tmp_path, "who", **SECTIONS, evaluate=evaluate, grid={"evaluate.newcomers": [0.2, 0.4]})
    assert [cell.config.known_clients for cell in load_cells(path).values()] == [5, 4]
    steps = {"evaluate.newcomers.steps": [[1], [2]]}
    path = write(tmp_path, "what", **SECTIONS, evaluate={**evaluate, "newcomers": {"clients": 0.2}}, grid=steps)
    found = [cell.config.evaluate.newcomers for cell in load_cells(path).values()]
    assert [newcomers.steps for newcomers in found if newcomers is not None] == [(1,), (2,)]
