"""What killed processes were writing goes; what somebody may be writing stays."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ppfl.jobs.leftovers import ABANDONED_SECONDS, clear_folder, clear_result
from ppfl.results.layout import apart_path


def test_only_what_is_nobodys_goes(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    here = platform.node()
    names = {
        f".a.h5.{gone.pid}-0123abcd@{here}.partial": True,
        f".a.h5.{os.getpid()}-0123abcd@{here}.partial": False,
        f".time.{gone.pid}-0123abcd@{here}.probe": True,
        f".time.{os.getpid()}-0123abcd@{here}.probe": False,
        f".b.h5.{gone.pid}-0123abcd@elsewhere.example.partial": False,
        f".c.h5.{gone.pid}-0123abcd@elsewhere.example.partial": True,
        "a.h5.partial": False,
        ".a.h5.running.json.0123.partial": False,
    }
    folder = tmp_path / "a.h5.checkpoint"
    folder.mkdir()
    for place in (tmp_path, folder):
        for name in names:
            (place / name).write_text("")
            if name.startswith(".c"):
                then = time.time() - ABANDONED_SECONDS - 60
                os.utime(place / name, (then, then))
    clear_folder(tmp_path)
    for place in (tmp_path, folder):
        assert {path.name for path in place.iterdir() if path.is_file()} == {
            name for name, goes in names.items() if not goes
        }


WRITE = """
import os, sys
from pathlib import Path
from ppfl.core.files import whole_path
with whole_path(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), 9)
"""
ASK_THE_TIME = """
import os, sys
from pathlib import Path
from ppfl.core.files import time_in
opened = os.open
def open_and_die(path, flags, *rest):
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(95, "Operation not supported")  # as NFS says it
    descriptor = opened(path, flags, *rest)
    if flags & os.O_CREAT:
        os.kill(os.getpid(), 9)
    return descriptor
os.open = open_and_die
time_in(Path(sys.argv[1]).parent)
"""


@pytest.mark.parametrize(("program", "ending"), [(WRITE, "partial"), (ASK_THE_TIME, "probe")], ids=["file", "time"])
def test_what_a_kill_leaves_has_such_a_name(tmp_path: Path, program: str, ending: str) -> None:
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "r.h5"], check=False).returncode == -9
    assert [path.name.rpartition(".")[2] for path in tmp_path.iterdir()] == [ending]
    clear_folder(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("look", [lambda result: clear_folder(result.parent), clear_result], ids=["folder", "result"])
def test_what_a_kill_leaves_in_the_other_place_goes(tmp_path: Path, look: Callable[[Path], None]) -> None:
    """Also when the run is computed beside its result the next time."""
    result = tmp_path / "r.h5"
    apart_path(result).parent.mkdir()
    assert subprocess.run([sys.executable, "-c", WRITE, apart_path(result)], check=False).returncode == -9
    assert len(list(apart_path(result).parent.iterdir())) == 1
    look(result)
    assert not list(apart_path(result).parent.iterdir())


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    clear_folder(tmp_path / "none")
