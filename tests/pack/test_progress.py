"""What a pack tells while it works, and while others hold what is left."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import pytest

from ppfl.config.grid import Cell, load_cells
from ppfl.jobs.launcher import launched_as
from ppfl.pack import command
from ppfl.pack.budget import Budget
from ppfl.pack.run_queue import ONE_RANK, RunQueue
from ppfl.results.layout import running_path
from tests.pack.test_sharing import write


def grid(folder: Path, runs: int) -> tuple[dict[str, Cell], list[Path]]:
    config, outs = write(folder, grid={"seed": list(range(runs))})
    return load_cells(config), outs


def claim(out: Path) -> None:
    mine = {"pid": os.getpid(), "host": platform.node(), "job": "17", "updated": time.time(), "token": "x"}
    running_path(out).write_text(json.dumps(mine))


def test_a_pack_whose_runs_others_hold_says_so(tmp_path: Path) -> None:
    cells, outs = grid(tmp_path, 2)
    for out in outs:
        claim(out)
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        for out in outs:  # their owner lets go once it was said that they are waited for
            running_path(out).unlink(missing_ok=True)

    packed = command.pack(cells, tmp_path, 1, tell, Budget(None), launched_as(), ONE_RANK)
    assert packed.counts["complete"] == 2
    assert lines[0] == f"2 runs are at work elsewhere (job 17 on {platform.node()}): waiting"


def test_no_time_is_told_before_there_is_one_to_go_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LINE_INTERVAL_SECONDS", -1.0)
    cells, outs = grid(tmp_path, 3)
    claim(outs[0])
    lines: list[str] = []
    queue = RunQueue(cells, tmp_path, 1, 0.0, ONE_RANK)
    progress = command._Progress(queue, 3, lines.append)
    progress.show()
    assert lines == ["0/3 runs, 0 failed, 1 at work elsewhere"]
    queue.counts["complete"] += 1
    progress.show()
    assert lines[1].startswith("1/3 runs, 0 failed, 1 at work elsewhere, ")
    assert lines[1].endswith(" s left")
