"""What the system refuses, or never ends: files and folders of others, devices, disks that are full."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ppfl.attempts import log
from ppfl.jobs import owner as owners
from ppfl.jobs import stop_requests
from ppfl.jobs.claim import ClaimedError
from ppfl.jobs.run_log import RunLog
from ppfl.jobs.stop_requests import PackRequests, forget_run, request_for
from ppfl.pack.scheduler import _outcome
from ppfl.results.layout import STALE_SECONDS, packs_stop_path, running_path, stop_path
from ppfl.status import watch
from tests.conftest import MakeResult
from tests.grids import curve, ppfl

CONFIG: dict[str, Any] = {"name": "trial", "seed": 0}
REFUSED = (errno.EACCES, os.strerror(errno.EACCES))


class Closed:
    """Whatever lies at some paths, which nobody may look at: as the system says it, also to root."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: set[str] = set()
        for name in ("open", "stat", "lstat", "scandir"):
            monkeypatch.setattr(os, name, self._refusing(getattr(os, name)))

    def _refusing(self, function: Any) -> Any:
        def call(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            if isinstance(path, str | os.PathLike) and os.fspath(path) in self.paths:
                raise PermissionError(*REFUSED, os.fspath(path))
            return function(path, *arguments, **options)

        return call


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Closed:
    return Closed(monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no time pass but that of naps, in a place where the age of a claim cannot be told."""
    now = [0.0]

    def refuse(folder: Path) -> float:
        raise PermissionError(*REFUSED)

    def nap(seconds: float) -> None:
        now[0] += seconds
        assert now[0] < 10 * STALE_SECONDS, "it does not end"

    monkeypatch.setattr(owners, "time_in", refuse)
    for module in (owners, watch, log):  # and not for other threads
        known = {"monotonic": lambda: now[0], "sleep": nap}
        monkeypatch.setattr(module, "time", SimpleNamespace(**vars(time) | known))
    return now


def dead_claim(result: Path) -> None:
    running_path(result).write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x", "rounds": 4}))


def test_watching_ends_with_a_dead_claim_whose_age_cannot_be_told(tmp_path: Path, clock: list[float]) -> None:
    dead_claim(tmp_path / "r.h5")
    told = ppfl("status", tmp_path)
    assert "1 running" in told.stdout
    assert "last seen" in told.stdout
    watched = ppfl("status", tmp_path, "--watch")
    assert watched.exit_code == 0
    assert "1 running" in watched.stdout
    assert "1 stale" in watched.stdout
    assert STALE_SECONDS <= clock[0] < 2 * STALE_SECONDS


def test_a_log_is_followed_no_longer_than_that(tmp_path: Path, clock: list[float]) -> None:
    said = RunLog(tmp_path / "r.h5")
    said.write("first\n")
    said.close()
    dead_claim(tmp_path / "r.h5")
    assert ppfl("log", tmp_path / "r.h5", "--follow").stdout == "first\n"
    assert STALE_SECONDS <= clock[0] < 2 * STALE_SECONDS


def test_results_that_may_not_be_read_are_not_said_to_be_missing(
    make_result: MakeResult, tmp_path: Path, closed: Closed
) -> None:
    shut, open_one = make_result("aaa", CONFIG, curve(1.0)), make_result("bbb", CONFIG | {"seed": 1}, curve(1.0))
    closed.paths = {str(shut)}
    told = ppfl("status", tmp_path)
    assert told.exit_code == 0
    assert "2 runs: 1 done, 1 failed" in told.stdout
    assert "Permission denied" in told.stdout
    table = ppfl("table", tmp_path)
    assert table.exit_code == 0
    assert "left out, cannot be read: aaa.h5 (Permission denied)" in table.stderr
    open_one.unlink()
    alone = ppfl("table", tmp_path)
    assert (alone.exit_code, alone.stderr) == (2, f"ppfl: error: {shut}: cannot be read: Permission denied\n")


def test_verify_goes_on_after_what_may_not_be_read(make_result: MakeResult, tmp_path: Path, closed: Closed) -> None:
    result = make_result("mmm", CONFIG, curve(1.0))
    entry = tmp_path / "a.h5.checkpoint" / "current.json"
    logs = tmp_path / "logs"
    for folder in (entry.parent, logs):
        folder.mkdir()
    closed.paths = {str(entry), str(logs)}
    found = ppfl("verify", tmp_path, entry)
    assert found.exit_code == 1
    why = "cannot be read (Permission denied)"
    assert found.stdout.splitlines() == [
        f"{entry}: {why}", f"{logs}: {why}", f"{result}: ok", f"{entry}: {why}",
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["show", "log", "stop"])
def test_a_path_below_a_closed_folder_is_one_line(tmp_path: Path, closed: Closed, command: str) -> None:
    path = tmp_path / "r.h5"
    closed.paths = {str(path)}
    done = ppfl(command, path)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "Permission denied" in done.stderr
    assert str(path) in done.stderr


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/full")], ids=["pipe", "endless"])
def test_what_is_no_plain_file_is_neither_waited_for_nor_read(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "x.h5"
    make(path)
    shown = ppfl("show", path)
    assert (shown.exit_code, shown.stderr) == (
        2,
        f"ppfl: error: {path}: it is no plain file; give the .h5 file that a run wrote\n",
    )
    assert ppfl("verify", path).stdout == f"{path}: cannot be read (it is no plain file)\n"
    tensors = path.rename(tmp_path / "x.safetensors")
    assert ppfl("verify", tensors).stdout == f"{tensors}: cannot be read (it is no plain file)\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b"\xff", b'{"requeue": 3, "token": []}', b"[]", b"null"],
    ids=["empty", "deep", "bytes", "types", "list", "null"],
)
def test_requests_that_say_nothing_are_none(tmp_path: Path, content: bytes) -> None:
    stop_path(tmp_path / "r.h5").write_bytes(content)
    assert request_for(tmp_path / "r.h5") is None


def test_a_request_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(stop_path(tmp_path / "r.h5"))
    assert request_for(tmp_path / "r.h5") is None


def test_requests_of_others_that_have_to_stay_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    stop_requests.ask_packs(tmp_path, requeue=False)
    stop_requests.ask_run(tmp_path / "r.h5", token="t", job="", requeue=True)
    os.utime(packs_stop_path(tmp_path), (1e9, 1e9))
    monkeypatch.setattr(Path, "unlink", refuse)
    forget_run(tmp_path / "r.h5")
    assert not PackRequests(tmp_path, began_at=2e9)()
    assert request_for(tmp_path / "r.h5") is not None


def test_what_a_pack_says_of_a_mistake_is_its_message() -> None:
    assert _outcome("k", ClaimedError("--out r.h5: is another job's")).reason == "--out r.h5: is another job's"
    assert _outcome("k", ValueError("no")).reason == "ValueError: no"


def test_a_collection_on_a_full_disk_is_one_short_line(
    make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_result("aaa", CONFIG, curve(1.0))
    out = tmp_path / "grid" / "c.h5"
    assert ppfl("collect", tmp_path, "--out", out).exit_code == 0
    before = out.read_bytes()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "Unable to synchronously create file (file write failed: time = now, buf = 0x1)")

    monkeypatch.setattr("ppfl.results.collection.h5py.File", refuse)
    done = ppfl("collect", tmp_path, "--out", out)
    assert (done.exit_code, done.stderr) == (2, f"ppfl: error: --out {out}: cannot write it: No space left on device\n")
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


LONG = "a" * 300
DATA_COMMANDS = (
    ("list", "--folder", LONG),
    ("check", "a9a", "--folder", LONG),
    ("fetch", "a9a", "--folder", LONG),
    ("make-tiny", "a9a", LONG),
    ("convert", "gldv2", "file", ".", LONG),
    ("convert", "gldv2", "file", LONG, "out.h5"),
    ("convert", "gldv2", LONG, ".", "out.h5"),
    ("flatten", LONG, "out.h5"),
    ("flatten", "file", LONG),
    ("flatten", "file", "file/out.h5"),
)


@pytest.mark.parametrize("arguments", DATA_COMMANDS, ids=lambda words: " ".join(words).replace(LONG, "LONG"))
def test_names_that_no_file_system_takes_are_told(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("user_id,image_id,class\n")
    done = ppfl("data", *arguments)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert re.search(f"File name too long|{LONG}|file", done.stderr)
