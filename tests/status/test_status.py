"""`ppfl status`: what the files beside results say."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from ppfl.cli import main
from ppfl.config.grid import load_cells
from ppfl.jobs.failures import Failure, write_failure
from ppfl.jobs.states import results_in, state_of, states_of
from ppfl.results.layout import STALE_SECONDS, checkpoint_path, failed_path, running_path
from ppfl.status.view import show_seconds

ROOT = Path(__file__).parent.parent.parent
BASE: dict[str, Any] = {
    "name": "looked_at",
    "rounds": 4,
    "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 3, "rows": 60},
    "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": {"name": "exact"}},
    "evaluate": {"every": 2},
    "grid": {"seed": [0, 1, 2, 3, 4, 5]},
}


def status(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["status", *map(str, arguments)], catch_exceptions=False, prog_name="ppfl")


def claim(out: Path, **facts: Any) -> None:
    progress = {"round": 3, "rounds": 4, "rounds_per_second": 2.5, "seconds_left": 90.0}
    mine = {"pid": os.getpid(), "host": platform.node(), "job": "17", "updated": time.time()}
    written = {**mine, **progress, **facts}
    running_path(out).write_text(json.dumps(written))
    os.utime(running_path(out), (written["updated"],) * 2)


@pytest.fixture
def grid(tmp_path: Path) -> tuple[Path, list[Path]]:
    """Yield a grid, one run of each state: done, running, stopped, failed, stale, missing."""
    config = tmp_path / "grid.yaml"
    config.write_text(yaml.safe_dump(BASE))
    outs = [tmp_path / "out" / f"{digest}.h5" for digest in load_cells(config)]
    packed = ["pack", str(config), "--out", str(tmp_path / "out"), "--part", "1/6"]
    assert CliRunner().invoke(main, packed, catch_exceptions=False).exit_code == 0
    claim(outs[1])
    checkpoint_path(outs[2]).mkdir()
    write_failure(outs[3], Failure(digest=outs[3].stem, reason="ValueError: of no use", rank=2, round=7))
    claim(outs[4], updated=time.time() - STALE_SECONDS - 1, host="elsewhere")
    return config, outs


def test_every_state_is_told_from_the_files(grid: tuple[Path, list[Path]]) -> None:
    config, outs = grid
    kinds = ["done", "running", "stopped", "failed", "stale", "missing"]
    assert [state_of(out).kind for out in outs] == kinds
    assert [state.kind for state in states_of(outs).values()] == kinds
    told = status(config, "--results", outs[0].parent).stdout
    assert "6 runs: 1 done, 1 running, 1 stopped, 1 failed, 1 stale, 1 missing" in told
    for fact in ("3/4", "2.5", "90 s", platform.node(), "17", "ValueError: of no use", "seed=3"):
        assert fact in told, fact


def test_json_has_all_that_is_known(grid: tuple[Path, list[Path]]) -> None:
    config, outs = grid
    told = json.loads(status(config, "--results", outs[0].parent, "--json").stdout)
    assert set(told["counts"].values()) == {1}
    runs = {run["digest"]: run for run in told["runs"]}
    assert runs[outs[3].stem]["reason"] == "ValueError: of no use"
    assert (runs[outs[1].stem]["state"], runs[outs[1].stem]["round"]) == ("running", 3)


def test_a_folder_tells_of_what_it_has(grid: tuple[Path, list[Path]]) -> None:
    _, outs = grid
    assert results_in(outs[0].parent) == sorted(outs[:5])
    assert "5 runs: 1 done" in status(outs[0].parent).stdout


def test_a_dead_process_of_this_host_is_stale_at_once(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    claim(tmp_path / "run.h5", pid=process.pid)
    assert state_of(tmp_path / "run.h5").kind == "stale"


def test_a_result_alone_is_opened(grid: tuple[Path, list[Path]]) -> None:
    _, outs = grid
    outs[0].with_name(f"{outs[0].name}.shared.safetensors").unlink()
    assert state_of(outs[0]).kind == "done"
    outs[0].write_bytes(b"cut off")
    assert state_of(outs[0]).kind == "missing"


@pytest.mark.slow
def test_watching_ends_when_nobody_is_at_work(grid: tuple[Path, list[Path]]) -> None:
    config, outs = grid
    command = [sys.executable, "-m", "ppfl", "status", str(config), "--results", str(outs[0].parent), "--watch"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "1 running" in process.stdout.readline()
        running_path(outs[1]).unlink()
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "6 runs: 1 done, 1 stopped, 1 failed, 1 stale, 2 missing" in rest
    assert "ValueError: of no use" in rest


def test_bad_arguments_are_refused(grid: tuple[Path, list[Path]], tmp_path: Path) -> None:
    config, outs = grid
    for arguments, complaint in (
        ((outs[0].parent, "--results", tmp_path), "is for a configuration file"),
        ((config, "--json", "--watch"), "one look"),
        ((tmp_path / "nowhere.yaml",), "nowhere.yaml"),
    ):
        refused = status(*arguments)
        assert (refused.exit_code, complaint in refused.stderr) == (2, True), refused.stderr


def test_seconds_are_shown_in_fitting_units() -> None:
    assert [show_seconds(seconds) for seconds in (45.2, 720, 12600)] == ["45 s", "12 min", "3.5 h"]


def test_a_complete_result_stays_done_whatever_lies_beside_it(grid: tuple[Path, list[Path]]) -> None:
    """Its process was killed right after it, or something was asked for that it does not have."""
    config, (out, *_) = grid
    claim(out, updated=time.time() - STALE_SECONDS - 1, host="elsewhere")
    assert state_of(out).kind == "done"
    running_path(out).unlink()
    asked = ["pack", str(config), "--out", str(out.parent), "--part", "1/6", "--set", "save.local=true"]
    done = CliRunner().invoke(main, asked, catch_exceptions=False, prog_name="ppfl")
    assert (done.exit_code, done.stdout) == (1, f"1 failed: {out.parent}\n")
    assert "without local parameters" in done.stderr
    assert not failed_path(out).exists()
    write_failure(out, Failure(digest=out.stem, reason="too late"))
    checkpoint_path(out).mkdir()
    assert state_of(out).kind == "done"
    again = ["run", str(config), "--cell", out.stem, "--out", str(out)]
    assert CliRunner().invoke(main, again, catch_exceptions=False, prog_name="ppfl").exit_code == 0
    assert not checkpoint_path(out).exists()
