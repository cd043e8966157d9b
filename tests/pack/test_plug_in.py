"""A method that somebody adds, with a constant that `resolve` fills in: packed runs have their own one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import ppfl
from tests.mpi.jobs import arrays

pytestmark = pytest.mark.slow

PLUG_IN = '''\
"""Local steps with a weight decay of the problem's own size."""

from typing import Literal

from ppfl.interfaces.local_training import LocalTraining
from ppfl.core.params import add_scaled, subtract
from ppfl.interfaces.method import ClientStep
from ppfl.core.plugins import Resolved
from ppfl.interfaces.step_sizes import step_size


class Damped(LocalTraining):
    """θ_m ← θ_m − η (∇_1 f(θ_m, w_m) + κ θ_m), κ = L/100."""

    name: Literal["damped"]
    kappa: Resolved[float] = 0.0

    def client(self, objective, message, state, data, draws):
        def step(shared, batch):
            gradient = add_scaled(objective.shared_gradient(shared, state["local"], batch), shared, self.kappa)
            return add_scaled(shared, gradient, -step_size(self.lr))

        shared = self.iterate(step, message, data, draws)
        return ClientStep(subtract(message, shared), state, self.report(draws, of_shared=1))

    def resolve(self, problem, participation, optimizer):
        resolved = super().resolve(problem, participation, optimizer)
        return resolved.model_copy(update={"kappa": problem.theory.constants().joint_smoothness / 100})
'''
DOCUMENT: dict[str, Any] = {
    "name": "damped", "rounds": 5, "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison", "clients": 3, "rows": 40, "shared_dimension": 5,
                "local_dimension": 2},
    "algorithm": {"name": "damped", "lr": 0.05, "local_steps": 2},
    "evaluate": {"every": 1, "tuned": {"epochs": 0}},
    "save": {"local": True}, "grid": {"seed": [0, 1]},
}  # fmt: skip
RUNS = """\
from pathlib import Path
from ppfl.cli import main
from ppfl.config.grid import load_cells
for digest in load_cells(Path("damped.yaml")):
    main(["run", "damped.yaml", "--cell", digest, "--out", f"alone/{digest}.h5"], standalone_mode=False)
main(["pack", "damped.yaml", "--out", "packed", "--jobs", "1"], standalone_mode=False)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package that has one file more."""
    shutil.copytree(Path(ppfl.__file__).parent, tmp_path / "ppfl", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "ppfl" / "algorithms" / "damped.py").write_text(PLUG_IN, encoding="utf-8")
    (tmp_path / "damped.yaml").write_text(yaml.safe_dump(DOCUMENT), encoding="utf-8")
    (tmp_path / "runs.py").write_text(f'if __name__ == "__main__":\n{indented(RUNS)}', encoding="utf-8")
    return tmp_path


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def test_packed_runs_have_the_constants_of_their_own_problems(project: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, "runs.py"], cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    alone, packed = (
        {path.name: arrays(path) for path in (project / folder).glob("*.h5")} for folder in ("alone", "packed")
    )
    assert len(alone) == 2
    assert packed == alone
