"""Files of runs have the modes that the umask gives: colleagues read all of them, or none."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ppfl.comm.solo import SoloCommunicator
from ppfl.config.grid import load_cells
from ppfl.config.run import Config
from ppfl.jobs.attempt import Caller
from ppfl.jobs.failures import Failure, write_failure, write_rank_log
from ppfl.jobs.run_log import tries
from ppfl.jobs.stop_requests import ask_packs, ask_run
from ppfl.results.layout import checkpoint_path, failed_path, running_path, shared_path
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.grids import BASE, grid_file, ppfl


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Return those of all that lies there, by name; what is being written may get another one meanwhile."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found[str(path.relative_to(folder))] = path.lstat().st_mode
    return found


def assert_modes(folder: Path, umask: int, *wanted: Path) -> None:
    found = modes(folder)
    assert {str(path.relative_to(folder)) for path in wanted} <= found.keys()
    for name, mode in found.items():
        assert oct(stat.S_IMODE(mode)) == oct((0o777 if stat.S_ISDIR(mode) else 0o666) & ~umask), name


def compute(config: Config, out: Path, umask: int, stop_at: int | None = None) -> str:
    """Run, and look at what lies there after every round."""
    done = [0]

    def told(number: int) -> None:
        done[0] = number
        assert_modes(out.parent, umask, running_path(out))

    return run(config, out, Silent(), SoloCommunicator(), caller=Caller("", lambda: done[0] == stop_at, told))


def test_all_that_a_run_leaves(tmp_path: Path, umask: int) -> None:
    save = "save: {local: true}\n"
    grid = grid_file(tmp_path, "{seed: [0]}", BASE.replace("rounds: 40", "rounds: 4") + save)
    (cell,) = load_cells(grid).values()
    folder = tmp_path / "results"
    out = folder / f"{cell.digest}.h5"
    assert compute(cell.config, out, umask, stop_at=2) == "stopped"
    checkpoint = checkpoint_path(out)
    assert_modes(folder, umask, out, checkpoint, *tries(out).values())
    assert len(list(checkpoint.iterdir())) > 1
    write_failure(out, Failure(digest=cell.digest, reason="why"))
    write_rank_log(out, Failure(digest=cell.digest, reason="why"))
    ask_run(out, token="t", job="", requeue=False)
    ask_packs(folder, requeue=False)
    assert_modes(folder, umask, failed_path(out), out.with_name(f"{out.name}.rank-0.log"))
    assert compute(cell.config, out, umask) == "complete"
    for option in (["collect", grid, "--results", folder], ["table", folder], ["plot", folder]):
        ending = {"collect": "h5", "table": "csv", "plot": "svg"}[str(option[0])]
        done = ppfl(*option, "--out", folder / f"made.{ending}")
        assert done.exit_code == 0, done.output
    made = [folder / f"made.{ending}" for ending in ("h5", "csv", "svg")]
    parameters = [shared_path(out), out.with_name(f"{out.name}.local-0-of-1.safetensors")]
    assert_modes(folder, umask, out, *parameters, *tries(out).values(), *made)
