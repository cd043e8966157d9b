"""Runs configurations at two commits and compares all arrays of their results byte for byte.

    python -m tests.house.same_bytes BEFORE [AFTER] [--only TEXT]

AFTER: a commit, or by default the files as they lie here. --only: those configurations whose path has the text.

Every run of configs/test on one rank and on two; as packs the small form of the paper's grids, and every method on
digits; a sample of the paper's runs. Whatever a result of BEFORE holds, beside measured times, AFTER must hold as well;
it may hold more. Ends with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).parents[2]
MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
MEASURED = frozenset({"seconds", "communication_seconds"})


@dataclass(frozen=True)
class Case:
    """Some runs of a configuration, computed in one way."""

    config: Path
    ranks: int = 1
    is_packed: bool = False
    """All of them by one `ppfl pack`; else one after the other by `ppfl run`."""
    rounds: int | None = None
    """Instead of its own; for packs."""
    at_most: int = 1_000_000
    """Runs, evenly over the grid; for those that are not packed."""

    @property
    def name(self) -> str:
        """Say what it is, in words."""
        how = "pack" if self.is_packed else f"{self.ranks} ranks"
        return f"{self.config} ({how}{f', {self.rounds} rounds' if self.rounds else ''})"

    def compute(self, tree: Path, out: Path) -> None:
        """Run it with the package that lies in `tree`."""
        start = [sys.executable, "-m", "mpi4py", "-m", "ppfl"]
        if self.is_packed:
            end = ["--set", f"rounds={self.rounds}"] if self.rounds else []
            command(tree, *start, "pack", str(self.config), "--out", str(out), *end)
            return
        launcher = [MPIEXEC, "-n", str(self.ranks)] if self.ranks > 1 else []
        runs = digests(tree, self.config)
        for digest in runs[:: -(-len(runs) // self.at_most)]:
            path = out / f"{digest}.h5"
            command(tree, *launcher, *start, "run", str(self.config), "--cell", digest, "--out", str(path))


def cases(tree: Path) -> list[Case]:
    """Return what is compared: configurations that the commit before has."""

    def files(folder: str) -> list[Path]:
        return [path.relative_to(tree) for path in sorted((tree / folder).glob("*.yaml")) if path.stem != "workflow"]

    return [
        *(Case(path, ranks) for path in files("configs/test") for ranks in (1, 2)),
        *(Case(path, is_packed=True) for path in files("configs/test/paper")),
        *(Case(path, at_most=5) for path in files("configs/paper")),
        Case(Path("configs/methods/digits.yaml"), is_packed=True, rounds=3),
    ]


def command(tree: Path, *words: str) -> str:
    """Run a command in a tree, with its package before the one that is installed; return what it said."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def digests(tree: Path, config: Path) -> list[str]:
    """Return the runs of a configuration."""
    listed = command(tree, sys.executable, "-m", "ppfl", "grid", str(config), "--json")
    return [cell["digest"] for cell in json.loads(listed)]


def contents(path: Path) -> dict[str, bytes]:
    """Return all arrays of a result, and its status, as bytes."""
    found: dict[str, bytes] = {}

    def collect(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and name.rsplit("/", 1)[-1] not in MEASURED:
            values = node[()]
            found[name] = repr(values.tolist()).encode() if values.dtype == object else np.asarray(values).tobytes()

    with h5py.File(path) as file:
        file.visititems(collect)
        found["status"] = str(file.attrs["status"]).encode()
    return found


def differences(before: Path, after: Path) -> list[str]:
    """Return what differs between two folders of results."""
    found = []
    names = {path.name for path in before.iterdir() if path.suffix == ".h5"}
    others = {path.name for path in after.iterdir() if path.suffix == ".h5"}
    found += [f"{name}: only in one of them" for name in sorted(names ^ others)]
    for name in sorted(names & others):
        old, new = contents(before / name), contents(after / name)
        found += [f"{name}: {key}" for key in old if old[key] != new.get(key)]
    return found


@contextmanager
def tree_of(commit: str | None, folder: Path) -> Iterator[Path]:
    """Lay a commit out in a folder; None: the files as they lie here."""
    if commit is None:
        yield ROOT
        return
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    yield folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?")
    parser.add_argument("--only", default="", metavar="TEXT")
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tree_of(given.before, folder / "tree-1") as old, tree_of(given.after, folder / "tree-2") as new:
            for case in cases(old):
                if given.only not in str(case.config):
                    continue
                outs = folder / "before", folder / "after"
                for tree, out in zip((old, new), outs, strict=True):
                    out.mkdir()
                    case.compute(tree, out)
                count, found = sum(path.suffix == ".h5" for path in outs[0].iterdir()), differences(*outs)
                print(f"{case.name}: {count} results, {len(found)} differences", *found[:5], sep="\n  ", flush=True)
                failed += bool(found)
                for out in outs:
                    shutil.rmtree(out)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
