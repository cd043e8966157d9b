"""Whose note stays when a rank has ended and a message of another one fails: the one that says why."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ppfl.jobs import failures
from ppfl.jobs.failures import Failure, read_failure, wait_for_the_cause, write_failure

LOST = type("Exception", (RuntimeError,), {"__module__": "mpi4py.MPI"})("Other MPI error")
KILLED = Failure(digest="d", reason="the process was killed by SIGKILL", rank=1)


def test_a_message_that_failed_leaves_the_note_to_who_knows_the_cause(tmp_path: Path) -> None:
    result = tmp_path / "r.h5"
    late = threading.Timer(0.3, write_failure, (result, KILLED))
    late.start()
    wait_for_the_cause(result, LOST)
    write_failure(result, Failure.of(LOST, "d"))
    late.join()
    assert read_failure(result) == KILLED


@pytest.mark.parametrize(("error", "waits"), [(LOST, True), (RuntimeError("ours"), False)])
def test_nobody_waits_for_ever_and_others_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, *, waits: bool
) -> None:
    monkeypatch.setattr(failures, "_CAUSE_SECONDS", 0.2)
    naps: list[float] = []
    monkeypatch.setattr(failures.time, "sleep", lambda seconds, nap=time.sleep: (naps.append(seconds), nap(seconds)))
    wait_for_the_cause(tmp_path / "r.h5", error)
    assert bool(naps) == waits
