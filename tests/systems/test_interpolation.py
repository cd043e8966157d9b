"""The study of interpolation on a few clients, rounds and one seed: every claim and figure comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppfl.analysis.systems.interpolation import study
from ppfl.analysis.systems.runs import Run
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.pack.cells import LastProblem
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent

CONFIGS = Path(__file__).parents[2] / "configs/systems"
FILES = ("interpolation-means", "interpolation-digits", "interpolation-partition")


def tiny(path: Path) -> list[Any]:
    """Return the configurations of a file, shrunk, of its first seed."""
    cells = [cell.config for cell in load_cells(path).values() if cell.config.seed == 0]
    if path.stem == "interpolation-means":
        return [
            config.model_copy(
                update={
                    "problem": config.problem.model_copy(update=SMALL),
                    "algorithm": config.algorithm.model_copy(update={"main_clients": 2}),
                }
            )
            for config in cells
        ]
    few = [config for config in cells if getattr(config.algorithm, "collaboration", 0.0) in (0.0, 0.6, 1.0)]
    return [config.model_copy(update={"rounds": 1}) for config in few]


SMALL = {"shared_dimension": 20}
"""Of the vectors; the clients stay, or the attackers beside them would be a majority."""


@pytest.mark.slow
def test_study(tmp_path: Path) -> None:
    runs: dict[str, list[Run]] = {}
    problems = LastProblem()
    for name in FILES:
        runs[name] = []
        for number, config in enumerate(tiny(CONFIGS / f"{name}.yaml")):
            out = tmp_path / f"{name}-{number}.h5"
            run(config, out, Silent(), SoloCommunicator(), problems)
            runs[name].append(Run(config, open_result(out)))
    found = study(runs)
    assert len(found.claims) == 9
    law = found.claims[0]
    assert "12 settings" in law.text
    assert float(law.distance.split()[0]) < 0.2
    found.save(tmp_path / "words.json")
    stems = ("interpolation_means", "interpolation_digits", "interpolation_partition")
    assert all((tmp_path / f"{stem}.svg").stat().st_size > 0 for stem in stems)
