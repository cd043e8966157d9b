"""What is drilled: runs and packs, in rounds and asynchronous, on one rank and on two."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ppfl.config.grid import load_cells
from tests.mpi.jobs import CONFIG, MESSAGES, MPIEXEC, VIRTUAL

CHECKPOINT_SECONDS = 0.5


@dataclass(frozen=True)
class Scenario:
    """One command, repeated until it is complete."""

    name: str
    ranks: int = 1
    config: Mapping[str, Any] = field(default_factory=dict)
    pack: tuple[str, ...] | None = None
    """Options of `ppfl pack`; None for `ppfl run`."""
    is_replayed: bool = False
    """Whether the order of arrivals is up to the machine: compared with a replay of its log then."""
    is_under_launcher: bool = False
    """Whether whoever started it has to live on: mpiexec does not pass on a SIGHUP but ends, and kills its ranks."""

    def write(self, folder: Path, rounds: int) -> Path:
        """Write the configuration; return its path."""
        grid = {} if self.pack is None else {"grid": {"seed": [0, 1, 2]}, "engine": {"clients_per_chunk": 3}}
        path = folder / "config.yaml"
        checkpoint = {"checkpoint": {"every_seconds": CHECKPOINT_SECONDS}}
        path.write_text(yaml.safe_dump({**CONFIG, **grid, **checkpoint, **self.config, "rounds": rounds}))
        return path

    def command(self, config: Path, out: Path, *, delivers: bool = False) -> list[str]:
        """Return the command that computes the results in the folder `out`."""
        start = [sys.executable, "-m", "mpi4py", "-m", "ppfl"]
        if self.pack is not None:
            return [*start, "pack", str(config), "--out", str(out), "--jobs", "2", *self.pack]
        launcher = [MPIEXEC, "-n", str(self.ranks)] if self.ranks > 1 else []
        end = ["--deliver"] if delivers else []
        return [*launcher, *start, "run", str(config), "--out", str(self.results(config, out)[0]), *end]

    def results(self, config: Path, out: Path) -> list[Path]:
        """Return the results that there are to be."""
        return [out / f"{digest}.h5" for digest in load_cells(config)]


SCENARIOS = (
    Scenario("one process"),
    Scenario("two ranks", 2, is_under_launcher=True),
    Scenario("states in files", 2, {"engine": {"client_state": "file"}}, is_under_launcher=True),
    Scenario("virtual clock", 2, VIRTUAL, is_under_launcher=True),
    Scenario("messages", 2, MESSAGES, is_replayed=True, is_under_launcher=True),
    Scenario("pack", pack=()),
    Scenario("pack of two ranks a run", pack=("--ranks-per-run", "2")),
)
