"""What children need is loaded early, where it will be needed, and as one that is to be forked from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ppfl.pack import early
from ppfl.pack.early import WORK_OF_CELLS, load_for
from ppfl.pack.run_queue import ONE_RANK
from tests.grids import ppfl

LOADED = """
import gc
import ppfl.pack.loaded
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
"""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has begun to be loaded."""
    found: list[str] = []
    monkeypatch.setattr(early, "begin_loading", found.append)
    return found


def test_it_begins_where_there_is_no_result_and_nowhere_else(tmp_path: Path, begun: list[str]) -> None:
    assert load_for(tmp_path / "new")
    assert load_for(tmp_path)
    (tmp_path / "a.h5.running.json").touch()
    (tmp_path / "a.yaml").touch()
    assert load_for(tmp_path)
    assert begun == [ONE_RANK.make_work] * 3
    (tmp_path / "a.h5").touch()
    assert not load_for(tmp_path)
    assert begun == [WORK_OF_CELLS] * 3


def test_a_pack_begins_before_it_reads_its_configuration(tmp_path: Path, begun: list[str]) -> None:
    (tmp_path / "grid.yaml").write_text("rounds: none")
    for options, count in (((), 1), (("--ranks-per-run", 2), 1)):
        done = ppfl("pack", tmp_path / "grid.yaml", "--out", tmp_path / "new", *options)
        assert done.exit_code == 2
        assert len(begun) == count  # runs of several ranks are other processes, which load by themselves


def test_the_collector_leaves_alone_what_is_loaded_and_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True True\n", done.stderr
