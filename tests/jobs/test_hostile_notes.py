"""Whatever lies where claims and notes belong: nobody who reads them is kept from the other runs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ppfl.attempts.log import show
from ppfl.cli import main
from ppfl.jobs import owner as owners
from ppfl.jobs.claim import Claim
from ppfl.jobs.failures import Failure, failure_since, read_failure, remove_failure, write_failure, write_rank_log
from ppfl.jobs.notes import MAX_BYTES
from ppfl.jobs.outcome import outline
from ppfl.jobs.owner import read_owner
from ppfl.jobs.run_log import RunLog, tries
from ppfl.jobs.states import state_of
from ppfl.results.layout import failed_path, log_folder, running_path
from tests.conftest import MakeResult

CLAIM: dict[str, Any] = {
    "pid": 1, "host": "elsewhere", "job": "7", "restart": 0, "token": "t", "num_ranks": 2, "started": "2026",
    "round": 3, "updated": 1.0, "rounds": 9, "rounds_per_second": 2.0, "seconds_left": 3.0,
}  # fmt: skip
NOTE: dict[str, Any] = {
    "digest": "d", "cell": "seed=1", "reason": "why", "rank": 1, "host": "there", "round": 3, "when": "2026",
    "log_tail": ["a line"],
}  # fmt: skip
VALUES = [None, "x", -1, 1.5, True, [], {}, [1], 10**400, float("nan"), float("inf"), "\ud800", "\x1b[2J\0\n", 1e300]
CONFIG: dict[str, Any] = {
    "name": "there", "rounds": 3, "problem": {"name": "quadratic"}, "algorithm": {"name": "ffgg"}, "seed": 0,
}  # fmt: skip


def folder(path: Path) -> None:
    path.mkdir()


def full_folder(path: Path) -> None:
    path.mkdir()
    (path / "of somebody").touch()


def huge(path: Path) -> None:
    path.write_bytes(b'{"reason": "')
    os.truncate(path, 1 << 30)


def written(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    write.__name__ = repr(content[:12])
    return write


PLACES: list[Callable[[Path], Any]] = [
    folder, full_folder, os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path.name),
    huge, lambda path: path.touch(0o000),
    *map(written, [b"", b"\0" * 100, b"\xff\xfe", b"{", b"[]", b"null", b"[" * 100_000, b"9" * 5000, b'"text"', b"{}"]),
]  # fmt: skip


def ppfl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False, prog_name="ppfl")


def assert_all_read_on(here: Path) -> None:
    """Every command that reads a folder does."""
    told = ppfl("status", here)
    assert told.exit_code == 0, told.output
    assert "1 done" in told.output
    assert json.loads(ppfl("status", here, "--json").stdout)["counts"]["done"] == 1
    assert ppfl("table", here).exit_code == 0
    assert ppfl("collect", here, "--out", here.parent / "all.h5").exit_code == 0


@pytest.fixture
def there(make_result: MakeResult, tmp_path: Path) -> Path:
    """Yield a folder with one complete result, and the place of another one."""
    here = tmp_path / "results"
    here.mkdir()
    make_result("aa", CONFIG, {"test_accuracy": [0.1, 0.2]}).rename(here / "aa.h5")
    return here


@pytest.mark.parametrize("place", range(len(PLACES)))
@pytest.mark.parametrize("where", [running_path, failed_path])
def test_what_is_no_claim_and_no_note_keeps_nobody(there: Path, where: Callable[[Path], Path], place: int) -> None:
    out = there / "bad.h5"
    PLACES[place](where(out))
    assert_all_read_on(there)
    assert state_of(out).kind in ("failed", "running")
    assert outline(out).status in ("failed", "running")
    if where is running_path:
        os.utime(where(out), (1, 1), follow_symlinks=False)
        Claim(out, 1, 3).release()
        assert not os.path.lexists(where(out))
    remove_failure(out)


@pytest.mark.parametrize("key", CLAIM)
def test_a_claim_with_any_value_of_any_type_is_read(there: Path, key: str) -> None:
    for value in VALUES:
        for host in ("elsewhere", platform.node()):
            running_path(there / "bad.h5").write_text(json.dumps({**CLAIM, "host": host, key: value}))
            assert state_of(there / "bad.h5").kind in ("running", "stale")
            assert ppfl("status", there).exit_code == 0
            found = read_owner(running_path(there / "bad.h5"))
            assert found is not None
            assert str(found).isprintable()
    assert_all_read_on(there)


@pytest.mark.parametrize("key", NOTE)
def test_a_note_with_any_value_of_any_type_is_read(there: Path, key: str) -> None:
    for value in VALUES:
        failed_path(there / "bad.h5").write_text(json.dumps({**NOTE, key: value}))
        assert state_of(there / "bad.h5").kind == "failed"
        assert ppfl("status", there).exit_code == 0
        assert read_failure(there / "bad.h5") is not None
        assert outline(there / "bad.h5").reason.isprintable()
    assert_all_read_on(there)


@pytest.mark.parametrize("place", [place for place in PLACES if place is not huge])
def test_what_is_no_log_is_shown_or_refused_in_one_line(there: Path, place: Callable[[Path], Any]) -> None:
    out = there / "aa.h5"
    log_folder(out).mkdir(parents=True)
    path = log_folder(out) / "try-1.log"
    place(path)
    told = ppfl("log", out)
    if path.is_file() and os.access(path, os.R_OK):
        assert (told.exit_code, told.stdout) == (0, path.read_bytes().decode(errors="replace"))
    else:
        assert (told.exit_code, told.stdout) == (2, "")
        assert told.stderr.splitlines()[-1].startswith(f"ppfl: error: {path}: cannot be read: ")
    assert_all_read_on(there)
    RunLog(out).close()
    assert list(tries(out)) == [1, 2]
    assert ppfl("log", out).exit_code == 0


def test_a_huge_log_is_shown_in_small_pieces(tmp_path: Path) -> None:
    path = tmp_path / "try-1.log"
    with path.open("wb") as file:
        file.write("é".encode() * 1000)
        file.truncate(32 << 20)
    sizes: list[int] = []
    show(path, [tmp_path / "r.h5"], follow=False, write=lambda text: sizes.append(len(text)))
    assert sum(sizes) == (32 << 20) - 1000
    assert max(sizes) <= 1 << 20


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    """It would be a good note otherwise."""
    note = failed_path(tmp_path / "r.h5")
    note.write_text(json.dumps({**NOTE, "log_tail": ["x" * MAX_BYTES]}))
    assert read_failure(tmp_path / "r.h5") is None
    note.write_text(json.dumps({**NOTE, "log_tail": ["x" * (MAX_BYTES // 2)]}))
    assert read_failure(tmp_path / "r.h5") is not None


def test_a_note_beside_a_claim_is_of_the_same_attempt(tmp_path: Path) -> None:
    """Unless the claim is refreshed on and on: whoever begins removes what it can of the attempt before."""
    out = tmp_path / "r.h5"
    claim, note = running_path(out), failed_path(out)
    claim.write_text(json.dumps(CLAIM))
    note.write_text(json.dumps(NOTE))
    for later, kind in ((-3, "failed"), (2, "failed"), (30, "running")):
        os.utime(note, (claim.stat().st_mtime - later,) * 2)
        assert state_of(out).kind == kind
        assert outline(out).status == kind
        assert (failure_since(out, read_owner(claim)) is None) == (kind == "running")
    assert state_of(out).facts["host"] == "elsewhere"


def test_ages_are_those_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock in the claim is that of another host; that of this one does not matter either."""
    out = tmp_path / "r.h5"
    for wrong in (0.0, 1e9, 1e11):
        running_path(out).write_text(json.dumps({**CLAIM, "updated": wrong}))
        assert state_of(out).kind == "running"
        monkeypatch.setattr(owners.time, "time", lambda wrong=wrong: wrong)
        assert state_of(out).kind == "running"
    os.utime(running_path(out), (running_path(out).stat().st_mtime - 61,) * 2)
    assert state_of(out).kind == "stale"


def test_where_nothing_can_be_written_it_is_told_when_a_job_was_last_seen(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> float:
        raise PermissionError(13, "Permission denied")

    running_path(there / "bad.h5").write_text(json.dumps(CLAIM))
    os.utime(running_path(there / "bad.h5"), (1e9, 1e9))
    assert state_of(there / "bad.h5").kind == "stale"
    monkeypatch.setattr(owners, "time_in", refuse)
    assert state_of(there / "bad.h5").kind == "running"
    told = ppfl("status", there).output
    assert "last seen" in told
    assert "2001-09-09" in told


def test_a_log_that_a_full_disk_refuses_is_not_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    def refuse_after_opening(self: Path, *_: Any, **__: Any) -> int:
        self.touch()
        return refuse()

    monkeypatch.setattr(Path, "write_text", refuse_after_opening)
    monkeypatch.setattr("ppfl.core.files._Everything.write", refuse)
    failure = Failure(digest="d", reason="why")
    write_rank_log(tmp_path / "r.h5", failure)
    assert not write_failure(tmp_path / "r.h5", failure)
    assert not list(tmp_path.iterdir())
