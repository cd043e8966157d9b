"""Short runs of the configurations of a study, as it reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppfl.analysis.systems.runs import Run, load_runs
from ppfl.config.grid import load_cells
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent


def runs_of(documents: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, list[Run]]:
    """Return {name: its runs}; configurations and results are written to the folder."""
    found = {}
    folder.mkdir(exist_ok=True)
    for stem, document in documents.items():
        config = folder / f"{stem}.yaml"
        config.write_text(yaml.safe_dump(dict(document)))
        for digest, cell in load_cells(config).items():
            run(cell.config, folder / stem / f"{digest}.h5", Silent())
        found[stem] = load_runs(config, folder / stem)
    return found
