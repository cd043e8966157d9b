"""One result, wherever it is computed: one claim, and a finished one is never replaced."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from ppfl.cli import main
from ppfl.comm.solo import SoloCommunicator
from ppfl.config.run import load
from ppfl.core.errors import UserError
from ppfl.jobs.attempt import Attempt, Caller
from ppfl.jobs.claim import Claim
from ppfl.jobs.states import results_in, state_of
from ppfl.results.layout import apart_path, checkpoint_path, running_path, shared_path
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.mpi.jobs import ROOT, arrays, wait_for
from tests.pack.test_sharing import BASE

pytestmark = pytest.mark.slow

CONFIG: dict[str, Any] = BASE | {"rounds": 60, "save": {"local": True}, "checkpoint": {"every_rounds": 5}}
HAND, WORKFLOW = False, True


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture
def whole(config: Path, tmp_path: Path) -> dict[str, bytes]:
    """What a run that nothing disturbed holds."""
    assert ppfl(config, tmp_path / "whole.h5").exit_code == 0
    return arrays(tmp_path / "whole.h5")


def arguments(config: Path, out: Path, delivers: bool) -> list[str]:
    return ["run", str(config), "--out", str(out), *(["--deliver"] if delivers else [])]


def ppfl(config: Path, out: Path, delivers: bool = HAND) -> Result:
    return CliRunner().invoke(main, arguments(config, out, delivers), catch_exceptions=False, prog_name="ppfl")


@contextmanager
def staying(config: Path, out: Path, mark: Path, delivers: bool) -> Iterator[subprocess.Popen[str]]:
    """Start a run that stays in a round until the mark is removed."""
    command = [sys.executable, "-m", "tests.mpi.sabotage", str(mark), "0", "33", *arguments(config, out, delivers)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        try:
            wait_for(process, mark)
            yield process
        finally:
            process.kill()


def assert_whole(out: Path, whole: dict[str, bytes]) -> None:
    assert arrays(out) == whole
    apart = apart_path(out).parent
    assert not apart.exists() or not list(apart.iterdir())
    names = {path.name for path in out.parent.iterdir() if path.name.startswith((out.name, f".{out.name}"))}
    assert names == {out.name, shared_path(out).name, f"{out.name}.local-0-of-1.safetensors"}


@pytest.mark.parametrize(("first", "second"), [(HAND, WORKFLOW), (WORKFLOW, HAND), (WORKFLOW, WORKFLOW)])
def test_after_a_kill_the_other_way_goes_on(
    config: Path, whole: dict[str, bytes], tmp_path: Path, first: bool, second: bool
) -> None:
    out = tmp_path / "out" / "r.h5"
    out.parent.mkdir()
    with staying(config, out, tmp_path / "stays", first) as process:
        assert running_path(out).exists()
        assert out.exists() != first
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert state_of(out).kind == "stale"
    assert results_in(out.parent) == [out]
    running_path(out).unlink()
    assert state_of(out).kind == "stopped"
    done = ppfl(config, out, second)
    assert "goes on at round 30" in done.stderr
    assert done.exit_code == 0
    assert_whole(out, whole)


@pytest.mark.parametrize("first", [HAND, WORKFLOW])
def test_a_run_by_hand_is_refused_and_one_of_a_workflow_waits(
    config: Path, whole: dict[str, bytes], tmp_path: Path, first: bool
) -> None:
    out, mark = tmp_path / "out" / "r.h5", tmp_path / "stays"
    out.parent.mkdir()
    command = [sys.executable, "-m", "ppfl", *arguments(config, out, WORKFLOW)]
    with staying(config, out, mark, first) as process:
        refused = ppfl(config, out)
        assert (refused.exit_code, "at work on it" in refused.stderr) == (2, True)
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, **pipes) as waits:
            assert waits.stderr is not None
            assert "it is waited for" in waits.stderr.readline()
            mark.unlink()
            assert process.wait(120) == 0
            there = out.stat()
            said, _ = waits.communicate(timeout=120)
    assert (waits.returncode, said) == (0, f"already done: {out}\n")
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (there.st_ino, there.st_mtime_ns)
    assert_whole(out, whole)


@pytest.mark.parametrize("delivers", [HAND, WORKFLOW])
def test_a_result_that_somebody_has_finished_meanwhile_stays(
    config: Path, whole: dict[str, bytes], tmp_path: Path, delivers: bool
) -> None:
    """Moved there by hand, say, or by an older version."""
    out = tmp_path / "out" / "r.h5"

    def told(round: int) -> None:
        if round == 40:
            shutil.copy(tmp_path / "whole.h5", out)

    caller = Caller(told=told, delivers=delivers)
    with pytest.raises(UserError, match="another job has finished it, and that stays"):
        run(load(config), out, Silent(), SoloCommunicator(), caller=caller)
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not out.with_name(f"{out.name}.failed.json").exists()


def test_what_was_complete_before_a_kill_is_delivered(config: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """θ and w had been moved, the result had not."""
    out = tmp_path / "out" / "r.h5"
    apart = apart_path(out)
    assert ppfl(config, apart).exit_code == 0
    checkpoint_path(apart).mkdir()
    shared_path(apart).rename(shared_path(out))
    inode = apart.stat().st_ino
    done = ppfl(config, out, WORKFLOW)
    assert (done.exit_code, done.stdout) == (0, f"already done: {out}\n")
    assert out.stat().st_ino == inode
    assert_whole(out, whole)


def test_a_pack_goes_on_from_what_a_workflow_has_left(config: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    digest = load(config).digest
    out = tmp_path / "out" / f"{digest}.h5"
    stops = Caller(wants_stop=lambda: True, delivers=True)
    assert run(load(config), out, Silent(), SoloCommunicator(), caller=stops) == "stopped"
    assert checkpoint_path(apart_path(out)).exists()
    assert not out.exists()
    packed = CliRunner().invoke(main, ["pack", str(config), "--out", str(out.parent)], catch_exceptions=False)
    assert packed.exit_code == 0
    assert_whole(out, whole)


@pytest.mark.parametrize("links", [True, False])
def test_delivery_replaces_nothing_on_any_file_system(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    out = tmp_path / "out" / "r.h5"
    assert ppfl(config, out, WORKFLOW).exit_code == 0
    first = out.read_bytes()
    shutil.copy(out, apart_path(out))
    attempt = Attempt(load(config), out, 1, Caller(delivers=True))
    attempt.here, attempt.claim = apart_path(out), Claim(out, 1, 60)
    with pytest.raises(UserError, match="another job has finished it"):
        attempt.deliver()
    attempt.leave()
    assert out.read_bytes() == first
