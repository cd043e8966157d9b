"""Runs that a child computes together leave what each of them leaves alone, each in its own place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.experiment import run
from ppfl.grid import load_cells
from ppfl.pack import cells
from ppfl.pack.board import ONE_RANK
from ppfl.progress import Silent
from ppfl.results.reader import open_result
from tests.mpi.jobs import arrays, left_beside
from tests.pack.test_pack import write

GRID: dict[str, Any] = {
    "rounds": 40,
    "evaluate": {"every": 10},
    "server_optimizer": {"name": "momentum"},
    "save": {"local": True},
    # large steps diverge, each in a round of its own
    "grid": {"problem.zeta": [0.5, 2], "algorithm.lr": [0.01, 1e6, 0.02, 1e200]},
}


def refuse(*_: Any) -> str:
    raise AssertionError("a run was computed alone")


def test_every_run_has_its_own_numbers_parameters_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "run", refuse)
    grid = load_cells(write(tmp_path, **GRID))
    given = [ONE_RANK.payload(cell, tmp_path / "together" / f"{digest}.h5") for digest, cell in grid.items()]
    answers = cells.make_work()(given)
    assert set(answers) == {"complete", "diverged"}
    for (digest, cell), answer in zip(grid.items(), answers, strict=True):
        alone, together = (tmp_path / folder / f"{digest}.h5" for folder in ("alone", "together"))
        assert run(cell.config, alone, Silent(), SoloCommunicator()) == answer
        assert arrays(together) == arrays(alone), cell.varying
        assert open_result(together).attrs["digest"] == digest
        assert open_result(together).config == open_result(alone).config
        assert left_beside(together) == set()
