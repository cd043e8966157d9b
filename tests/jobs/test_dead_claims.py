"""Claims whose owner has ended: how their age is judged, and what happens when they cannot be removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ppfl.core.errors import UserError
from ppfl.jobs import claim as module
from ppfl.jobs.claim import Claim, ClaimedError
from tests.jobs.test_claim import other_host, written


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "r.h5"


def test_a_damaged_claim_counts_by_its_age(out: Path) -> None:
    path = out.with_name("r.h5.running.json")
    path.write_text('{"pid": 1')
    with pytest.raises(ClaimedError, match="at work"):
        Claim(out, 1, 100)
    os.utime(path, (time.time() - 100,) * 2)
    Claim(out, 1, 100).release()


def test_a_taker_that_was_killed_is_not_waited_for(out: Path, elapsed: list[float]) -> None:
    other_host(out, 61)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    turn = {"pid": process.pid, "host": module.platform.node(), "token": "killed"}
    out.with_name(".r.h5.running.json.turn").write_text(json.dumps(turn))
    Claim(out, 1, 100).release()
    assert elapsed[0] < 1
    assert not list(out.parent.iterdir())


@pytest.fixture
def elapsed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make the clock of this process go on by sleeping alone, and nothing sleep really; yield how far it is."""
    passed = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: passed[0])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: passed.append(passed.pop() + seconds))
    return passed


def ahead(out: Path, **facts: Any) -> None:
    """Leave a claim that lies ten days in the future."""
    other_host(out, -864_000, **facts)


def test_a_claim_from_the_future_that_nobody_refreshes_is_taken_over(out: Path, elapsed: list[float]) -> None:
    ahead(out)
    claim = Claim(out, 1, 100)
    assert written(out)["token"] == claim.token
    assert elapsed[0] >= module.STALE_SECONDS
    claim.release()


def test_a_claim_from_the_future_that_is_refreshed_is_respected(
    out: Path, elapsed: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead(out)

    def refresh(seconds: float) -> None:
        elapsed[0] += seconds
        if elapsed[0] > 30:
            ahead(out, round=int(elapsed[0]))

    monkeypatch.setattr(module.time, "sleep", refresh)
    with pytest.raises(ClaimedError, match="elsewhere"):
        Claim(out, 1, 100)
    assert written(out)["host"] == "elsewhere"


def test_a_dead_claim_that_cannot_be_removed_is_told_in_one_line(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's, in a folder like /tmp."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    other_host(out, 61)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match=r"running\.json is left of a job that has ended .*belongs to user .*ask its"):
        Claim(out, 1, 100)
    assert [path.name for path in out.parent.iterdir()] == ["r.h5.running.json"]


def test_the_turn_of_a_dead_taker_that_cannot_be_removed_is_told(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_host(out, 61)
    turn = out.with_name(".r.h5.running.json.turn")
    turn.write_text(json.dumps({"pid": 1, "host": "elsewhere", "token": "killed"}))
    os.utime(turn, (1, 1))
    unlink = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self == turn:
            raise PermissionError(1, "Operation not permitted")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UserError, match=r"turn is left of a job"):
        Claim(out, 1, 100)


def test_a_restart_count_that_is_no_number_does_no_harm(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "abc")
    Claim(out, 1, 100).release()
