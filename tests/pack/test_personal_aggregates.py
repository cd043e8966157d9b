"""Runs whose clients get aggregates of their own leave in a pack what they leave alone, and are computed alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.algorithms.cases import sections
from tests.engine.test_queries import asking
from tests.mpi.jobs import arrays

pytestmark = pytest.mark.slow

REPORTS = {"every": 1, "tuned": {"epochs": 0}, "reports": ["mixing"]}
GRIDS: dict[str, dict[str, Any]] = {
    "query points": {**asking(main_clients=3), "grid": {"algorithm.collaboration": [0.0, 0.5, 1.0]}},
    "mixing": {
        "problem": {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 7, "rows": 40},
        "rounds": 3,
        "algorithm": {"name": "pfedgraph", "lr": "theory", "local_steps": 2},
        "evaluate": REPORTS,
        "grid": {"algorithm.penalty": [0.01, 0.5, 1e300]},
    },
    "gossip": {
        **sections("motef", "quadratic"),
        "grid": {"algorithm.momentum": [0.1, 0.5, 1.0]},
    },
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_packed_runs_have_the_bytes_of_single_ones(
    grid: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(yaml.safe_dump({"name": "packed", "save": {"local": True}, **grid}))
    for digest, cell in load_cells(Path("grid.yaml")).items():
        run(cell.config, Path(f"alone/{digest}.h5"), Silent(), SoloCommunicator())
    command = [sys.executable, "-m", "ppfl", "pack", "grid.yaml", "--out", "packed"]
    packed = subprocess.run(command, capture_output=True, text=True)
    assert packed.returncode == 0, packed.stderr
    alone, together = ({one.name: arrays(one) for one in Path(name).glob("*.h5")} for name in ("alone", "packed"))
    assert len(alone) == 3
    assert alone == together
