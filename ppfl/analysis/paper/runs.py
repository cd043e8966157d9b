"""Results of one experiment, and what several seeds say together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ppfl.config.grid import load_cells
from ppfl.config.run import Config
from ppfl.core.errors import UserError
from ppfl.results.reader import open_result

Floats = npt.NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)

LATE = 0.2
"""The last part of a run that its final ‖F‖ is taken over: where methods do not come to rest, one round is chance."""


@dataclass(frozen=True)
class Run:
    """One cell: its configuration, how it ended, and (evaluations,) scores and costs by name."""

    config: Config
    status: str
    series: dict[str, Floats]

    @property
    def rounds(self) -> list[int]:
        """Evaluated rounds."""
        return [int(round) for round in self.series["round"]]

    @property
    def norms(self) -> Floats:
        """‖F(θ)‖ of the personalized problem, also where the run shares w."""
        return self.series.get("personalized_operator_norm", self.series["operator_norm"])

    @property
    def final(self) -> float:
        """Root mean square of ‖F‖ over the last fifth of the rounds; inf when the run diverged."""
        return late_mean(self.norms, self.rounds) if self.status == "complete" else np.inf


def late_mean(norms: Floats, rounds: Sequence[int]) -> float:
    """Return the root mean square over the last fifth of the rounds."""
    late = np.asarray(rounds) >= (1.0 - LATE) * rounds[-1]
    return float(np.sqrt(np.mean(norms[late] ** 2)))


def load_runs(config: Path, folder: Path) -> list[Run]:
    """Read the results of all cells of a configuration file; raises UserError when one is missing or unfinished."""
    found = []
    for digest, cell in load_cells(config).items():
        result = open_result(folder / f"{digest}.h5")
        if not result.attrs["complete"]:
            raise UserError(f"{result.path}: is not complete; run `ppfl pack {config} --out {folder}` again")
        series = {"round": result.rounds["round"].to_numpy().astype(np.float64)}
        series |= {str(name): v.to_numpy() for name, v in result.rounds.data_vars.items() if v.ndim == 1}
        found.append(Run(cell.config, str(result.attrs["status"]), series))
    return found


def grouped(runs: Iterable[Run], key: Callable[[Run], Key]) -> dict[Key, list[Run]]:
    """Return the runs by key, in the order in which the keys come."""
    groups: dict[Key, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest over seeds; arrays or numbers."""

    median: Floats
    lowest: Floats
    highest: Floats


def spread(values: Sequence[Floats] | Sequence[float]) -> Spread:
    """Summarize over seeds; of curves that ended early the part that all have."""
    arrays = [np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in values]
    length = min(len(array) for array in arrays)
    stacked = np.stack([array[:length] for array in arrays])
    return Spread(np.median(stacked, axis=0), stacked.min(axis=0), stacked.max(axis=0))
