"""What the time of a run was spent on: all of it, once, over all tries."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import ppfl
from ppfl.config.grid import load_cells
from ppfl.config.run import load
from ppfl.engine import evaluate, run
from ppfl.engine.spent import Spent, shared
from ppfl.jobs.attempt import Caller
from ppfl.pack import cells
from ppfl.pack.run_queue import ONE_RANK
from ppfl.results import recorder
from ppfl.results.checkpoints import Checkpoints
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run as run_experiment
from ppfl.runs.progress import Silent
from tests.grids import ppfl as command

NAMES = {
    "start", "rounds", "communication", "scoring", "final_stages", "writing", "checkpoints", "rest",
}  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "name": "spent", "rounds": 6, "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison", "clients": 4, "rows": 20, "shared_dimension": 5,
                "local_dimension": 2},
    "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": {"name": "exact"}},
    "evaluate": {"every": 2}, "checkpoint": {"every_rounds": 2},
}  # fmt: skip
NAP = 0.05
WAYS: dict[str, dict[str, Any]] = {
    "rounds": {},
    "clock": {"asynchronous": {"engine": "virtual"}, "compute_times": {"name": "fixed"}},
    "messages": {"asynchronous": {"engine": "messages"}},
}


def slow(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seconds: float = NAP) -> list[int]:
    """Have a function take a while longer; return what counts its calls."""
    calls: list[int] = []
    function = getattr(owner, name)

    def slowly(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        time.sleep(seconds)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, slowly)
    return calls


def seconds_of(path: Path) -> dict[str, float]:
    seconds = open_result(path).seconds
    assert seconds.keys() == NAMES
    assert min(seconds.values()) > -1e-6
    return seconds


@pytest.mark.parametrize("way", WAYS)
def test_everything_is_counted_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(DOCUMENT | WAYS[way]))
    scored = slow(monkeypatch, evaluate, "_score_rounds")
    staged = slow(monkeypatch, evaluate, "_score_stages")
    written = slow(monkeypatch, recorder, "write_whole")
    saved = slow(monkeypatch, Checkpoints, "save")
    started = time.perf_counter()
    out = tmp_path / "r.h5"
    assert run_experiment(load(tmp_path / "run.yaml"), out, Silent()) == "complete"
    took = time.perf_counter() - started
    seconds = seconds_of(out)
    for name, calls in {"scoring": scored, "final_stages": staged, "writing": written, "checkpoints": saved}.items():
        # the last write cannot tell of itself
        least = NAP * (len(calls) - (name == "writing"))
        assert least <= seconds[name], name
        assert calls
    assert seconds["rounds"] > 0
    assert seconds["rounds"] + seconds["communication"] == pytest.approx(
        float(open_result(out).rounds["seconds"].to_numpy()[-1])
    )
    assert sum(seconds.values()) <= took - NAP


def test_tries_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(DOCUMENT))
    config, out = load(tmp_path / "run.yaml"), tmp_path / "r.h5"
    slow(monkeypatch, run, "combine")
    tries = []
    for _ in range(2):
        asked: list[int] = []

        def wants_stop(asked: list[int] = asked) -> bool:
            asked.append(1)
            return len(asked) > 2

        started = time.perf_counter()
        run_experiment(config, out, Silent(), caller=Caller(wants_stop=wants_stop))
        tries.append(time.perf_counter() - started)
        time.sleep(0.3)  # of which no try knows
    seconds = seconds_of(out)
    assert open_result(out).attrs["status"] == "complete"
    assert seconds["rounds"] + seconds["communication"] >= 6 * NAP
    assert 6 * NAP < sum(seconds.values()) <= sum(tries)


def test_a_snapshot_without_seconds_is_gone_on_from() -> None:
    spent = Spent()
    spent.restore({})
    assert spent.total == 0.0
    assert set(spent.seconds.values()) == {0.0}
    spent.restore({"total": 3.0, "writing": 1.0})
    assert (spent.total, spent.seconds["writing"], spent.seconds["start"]) == (3.0, 1.0, 0.0)


def test_several_runs_share() -> None:
    runs = [Spent(), Spent(), Spent()]
    with shared(runs, "scoring"):
        time.sleep(0.03)
    assert sum(one.seconds["scoring"] for one in runs) == pytest.approx(0.03, abs=0.02)
    assert runs[0].seconds["scoring"] >= 0.01


def test_runs_of_a_pack_have_shares_that_add_up(tmp_path: Path) -> None:
    """Also where one of them ends early."""
    method = {"name": "ffgg", "lr": 0.01, "fine_tuner": {"name": "conjugate_gradient", "steps": 3}}
    grid = {**DOCUMENT, "algorithm": method, "grid": {"algorithm.lr": [0.01, 1e200, 0.02]}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    given = {digest: ONE_RANK.payload(cell, tmp_path / f"{digest}.h5")
             for digest, cell in load_cells(tmp_path / "grid.yaml").items()}  # fmt: skip
    started = time.perf_counter()
    assert sorted(map(str, cells.make_work()(list(given.values())))) == ["complete", "complete", "diverged"]
    took = time.perf_counter() - started
    paths = [tmp_path / f"{digest}.h5" for digest in given]
    assert all(open_result(path).provenance["seconds_shared_by"] == 3 for path in paths)
    assert 0 < sum(sum(seconds_of(path).values()) for path in paths) <= took


def test_show_tells_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(DOCUMENT))
    out = tmp_path / "r.h5"
    run_experiment(load(tmp_path / "run.yaml"), out, Silent())
    (line,) = [line for line in command("show", out).output.splitlines() if " in all: " in line]
    assert "rounds" in line
    assert "final stages" in line
    assert ppfl.open_result(out)["seconds"].attrs == seconds_of(out)
