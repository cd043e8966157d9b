"""Files get their names as a whole, flushed, with the mode that the umask gives; a failure leaves what was there."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import pytest

from ppfl.core.files import HIDDEN, names_flushed_together, whole_file, whole_path, write_whole


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_the_umask_gives_the_mode(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_it_is_on_the_disk_before_it_has_its_name_and_so_is_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[bool, list[str]]] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append((is_folder, sorted(path.name for path in tmp_path.iterdir())))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(tmp_path / "a", b"content")
    (first_is_folder, first), second = flushed
    assert not first_is_folder
    assert len(first) == 1
    assert HIDDEN.fullmatch(first[0])
    assert second == (True, ["a"])


def test_names_that_are_flushed_together_are_so_at_the_end_by_whichever_thread_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[list[str]] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            folders.append(sorted(path.name for path in tmp_path.iterdir()))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with names_flushed_together(), ThreadPoolExecutor() as threads:
        write_whole(tmp_path / "a", b"content")
        threads.submit(copy_context().run, write_whole, tmp_path / "b", b"content").result()
        assert folders == []
        threads.submit(write_whole, tmp_path / "c", b"of somebody else").result()
        assert folders == [["a", "b", "c"]]
        write_whole(tmp_path / "d", b"content")
    assert folders == [["a", "b", "c"], ["a", "b", "c", "d"]]
    write_whole(tmp_path / "e", b"content")
    assert folders[2:] == [["a", "b", "c", "d", "e"]]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail() -> None:
        with whole_file(path) as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with whole_path(Path(f"/dev/fd/{writing}")) as path:
        path.write_bytes(b"content")
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"content"


def test_a_long_name_has_a_partial_name_too(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120)
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"
