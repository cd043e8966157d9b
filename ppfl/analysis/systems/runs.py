"""The studies, their configurations and the results of these."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppfl.config.grid import load_cells
from ppfl.core.errors import UserError
from ppfl.results.reader import open_result

if TYPE_CHECKING:
    from pathlib import Path

    from ppfl.analysis.systems.study import Study
    from ppfl.config.run import Config
    from ppfl.results.reader import Result

STUDIES = (
    "incentives",
    "floral",
    "wireless",
    "interpolation",
    "collaborators",
    "backdoor",
    "changing",
    "compressed",
    "motef",
    "merchants",
)
"""In the order of the report; `ppfl/analysis/systems/<name>.py` has `study`, which is called with {file: its runs}."""

DIAGNOSED = ("merchants",)
"""Those that ask for ρ of results: `is_diagnosed` of theirs says of which."""


@dataclass(frozen=True)
class Run:
    """One cell of a grid: its configuration and all that its file holds."""

    config: Config
    result: Result

    @property
    def is_complete(self) -> bool:
        """False when it diverged."""
        return bool(self.result.attrs["status"] == "complete")


def studies_of(folder: Path) -> list[str]:
    """Return the studies that have configurations in a folder; raises UserError when none has."""
    found = [study for study in STUDIES if configs_of(study, folder)]
    if not found:
        raise UserError(f"{folder}: there is no configuration of {', '.join(STUDIES)}")
    return found


def configs_of(study: str, folder: Path) -> list[Path]:
    """Return the configurations of a study: `<study>.yaml` and `<study>-<part>.yaml`."""
    return sorted(path for path in folder.glob("*.yaml") if path.stem.split("-")[0] == study)


def load_runs(config: Path, folder: Path) -> list[Run]:
    """Read the results of all cells of a configuration; raises UserError when one is missing or unfinished."""
    found = []
    for digest, cell in load_cells(config).items():
        result = open_result(folder / f"{digest}.h5")
        if not result.attrs["complete"]:
            raise UserError(f"{result.path}: is not complete; run `ppfl pack {config} --out {folder}` again")
        found.append(Run(cell.config, result))
    return found


def draw(study: str, configs: Path, results: Path) -> Study:
    """Return what the results of a study, each configuration's in a folder of its name, come to.

    Raises UserError when one is missing or unfinished.
    """
    runs = {path.stem: load_runs(path, results / path.stem) for path in configs_of(study, configs)}
    drawn: Study = importlib.import_module(f"ppfl.analysis.systems.{study}").study(runs)
    return drawn
