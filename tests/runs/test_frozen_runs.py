"""Frozen parameters of runs: where they begin, and what is left of them."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch
from click.testing import CliRunner

from ppfl.cli import main
from ppfl.config.run import load
from ppfl.core.errors import UserError
from ppfl.core.types import Params
from ppfl.interfaces.started import Beginning
from ppfl.problems._supervised_objective import Supervised
from ppfl.results.parameters import load_shared, save_shared
from ppfl.runs.start import begun
from tests.runs.started import PARTIAL, go, is_equal, problem, setup_of, write


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_they_are_saved_beside_theta_and_diagnosed_with_it(tmp_path: Path) -> None:
    partly = {**problem(), "split": {"local": ["head.*"], "frozen": ["hidden1.weight"]}}
    path = write(tmp_path, "partly", algorithm=PARTIAL, problem=partly)
    found = load_shared(go(path).default_out())
    frozen = setup_of(path).problem.objective.frozen
    assert {"hidden1.weight", "hidden1.bias"} == set(found)
    assert torch.equal(found["hidden1.weight"], frozen["hidden1.weight"])
    told = CliRunner().invoke(main, ["diagnose", str(load("partly.yaml").default_out())])
    assert told.exit_code == 0, told.output


def test_frozen_parameters_begin_there_too(tmp_path: Path) -> None:
    """What an objective holds of initial values is told; what is not there is refused like any other."""

    class Frozen(Supervised):
        held: Params = {"scale": torch.zeros(2)}  # noqa: RUF012  (set once more for each copy)

        @property
        def frozen(self) -> Params:
            return self.held

        def begin_anew(self, beginning: Beginning) -> None:
            self.held = beginning.shared(self.held)

    config = go(write(tmp_path, "pre"))
    theta = load_shared(config.default_out())
    setup = setup_of(write(tmp_path, "next", start={"config": "pre.yaml"}))
    problem = setup_of(write(tmp_path, "plain")).problem
    problem.objective.__class__ = Frozen
    start = load("next.yaml")
    with pytest.raises(UserError, match="has no scale"):
        begun(problem, start, None, setup.communicator)
    assert config.default_out().exists()
    save_shared(tmp_path / config.default_out(), {**theta, "scale": torch.ones(2)}, config.digest)
    found = begun(problem, start, None, setup.communicator)[0].objective
    assert is_equal(found.frozen, {"scale": torch.ones(2)})
    assert is_equal(problem.objective.frozen, {"scale": torch.zeros(2)})
    assert is_equal(found.init_shared(), theta)


def test_runs_that_share_a_problem_freeze_what_each_began_at(tmp_path: Path) -> None:
    """Scores, too, are of the frozen parameters of the run, whichever other one was begun in between."""
    whole = {**problem(), "seed": 0}
    partly = {**whole, "split": {"local": ["head.*"], "frozen": ["hidden1.*"]}}
    ends = []
    for seed in (1, 2):
        with h5py.File(go(write(tmp_path, f"pre{seed}", seed=seed, problem=whole)).default_out()) as file:
            ends.append(float(file["rounds/test_loss"][-1]))
    shared = setup_of(write(tmp_path, "plain", algorithm=PARTIAL, problem=partly))
    found = []
    for seed in (1, 2):
        start = load(write(tmp_path, "next", start={"config": f"pre{seed}.yaml"}, algorithm=PARTIAL, problem=partly))
        found.append(begun(shared.problem, start, None, shared.communicator)[0])
    for of_run, end in zip(found, ends, strict=True):
        theta, scores = of_run.objective.init_shared(), of_run.scores
        losses = [scores.client_metrics(theta, of_run.objective.init_local(n), n)["test_loss"] for n in range(4)]
        assert sum(losses) / 4 == pytest.approx(end, rel=1e-5)
