"""The state of every run of a grid or of a folder, from the files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppfl.core.errors import UserError
from ppfl.grid import load_cells
from ppfl.results.partials import remove_partials
from ppfl.results.states import KINDS, RunState, results_in, states_of


@dataclass(frozen=True)
class Runs:
    """Which runs are looked at: where the result of each goes, and what varies, in words."""

    folder: Path
    cells: Mapping[Path, str]

    def survey(self) -> Survey:
        """Look at the files now."""
        return Survey(self, states_of(self.cells))


@dataclass(frozen=True)
class Survey:
    """What every run is at, at one moment."""

    runs: Runs
    states: Mapping[Path, RunState]

    @property
    def counts(self) -> dict[str, int]:
        """Return {kind: number of runs}, every kind, in a fixed order."""
        found = Counter(state.kind for state in self.states.values())
        return {kind: found[kind] for kind in KINDS}

    @property
    def is_at_rest(self) -> bool:
        """True when nobody is at work on any of the runs."""
        return not self.counts["running"]

    def as_json(self) -> dict[str, Any]:
        """Return counts, and of every run digest, result, kind, what varies and what its files say."""
        runs = [
            {"digest": out.stem, "out": str(out), "cell": self.runs.cells[out], "state": state.kind} | dict(state.facts)
            for out, state in self.states.items()
        ]
        return {"folder": str(self.runs.folder), "counts": self.counts, "runs": runs}


def find_runs(grid: Path, out: Path | None) -> Runs:
    """Return the runs of a configuration file, or those that a folder shows signs of.

    Raises UserError for what is neither.
    """
    if grid.is_dir():
        if out is not None:
            raise UserError(f"--out {out}: is for a configuration file; {grid} is a folder of results itself")
        remove_partials(grid)
        return Runs(grid, dict.fromkeys(results_in(grid), ""))
    cells = load_cells(grid)
    folder = out or next(iter(cells.values())).config.default_out().parent
    remove_partials(folder)
    return Runs(folder, {folder / f"{digest}.h5": str(cell) for digest, cell in cells.items()})
