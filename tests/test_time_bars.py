"""Where the time went: bars of the report, and what a progress line says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ppfl.analysis.report import Section, write_report
from ppfl.analysis.time_bars import MAX_BARS, Bar, time_bars
from ppfl.config.run import validate
from ppfl.results.reader import Result, open_result
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.conftest import MakeResult
from tests.engine.test_spent import DOCUMENT

SERIES = {"loss": [1.0, 0.5]}


def config(lr: float, seed: int = 0) -> dict[str, Any]:
    return {"name": "trial", "seed": seed, "problem": {"name": "quadratic"}, "algorithm": {"name": "ffgg", "lr": lr}}


@pytest.fixture
def results(make_result: MakeResult) -> list[Result]:
    paths = [
        make_result("00", config(0.1), SERIES, spent={"rounds": 2.0, "scoring": 1.0, "checkpoints": 0.0}),
        make_result("01", config(0.1, seed=1), SERIES, spent={"rounds": 4.0, "scoring": 0.0, "checkpoints": 0.0}),
        make_result("02", config(0.2), SERIES, spent={"rounds": 1.0, "scoring": 0.25, "checkpoints": 0.0}),
    ]
    return [open_result(path) for path in paths]


def test_runs_that_differ_in_their_seeds_alone_are_one_bar(results: list[Result]) -> None:
    assert time_bars(results) == [
        Bar("lr 0.1", 2, {"rounds": 3.0, "scoring": 0.5}),
        Bar("lr 0.2", 1, {"rounds": 1.0, "scoring": 0.25}),
    ]
    assert time_bars(results)[0].total == 3.5


def test_seconds_are_in_the_order_of_a_run_and_not_of_the_alphabet(make_result: MakeResult) -> None:
    spent = {"rest": 1.0, "final_stages": 1.0, "rounds": 1.0, "scoring": 1.0, "start": 1.0}
    (bar,) = time_bars([open_result(make_result("00", config(0.1), SERIES, spent=spent))])
    assert list(bar.seconds) == ["start", "rounds", "scoring", "final_stages", "rest"]


def test_without_seconds_there_are_no_bars(make_result: MakeResult) -> None:
    assert time_bars([open_result(make_result("00", config(0.1), SERIES))]) == []


def test_of_very_many_kinds_the_mean_is_shown(make_result: MakeResult) -> None:
    paths = [
        make_result(f"{number:02x}", config(0.1 + number), SERIES, spent={"rounds": float(number)})
        for number in range(MAX_BARS + 1)
    ]
    (bar,) = time_bars([open_result(path) for path in paths])
    assert bar == Bar("mean over all", MAX_BARS + 1, {"rounds": MAX_BARS / 2})


def test_the_report_shows_them(results: list[Result], tmp_path: Path) -> None:
    picture = tmp_path / "trial.svg"
    picture.write_text("<svg/>")
    write_report([Section("trial", [result.path for result in results], picture)], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'class="bar" style="width: ([\d.]+)%"', text) == ["100.0", "35.7"]
    assert re.findall(r'class="part-\d" style="flex: ([\d.]+)" title="(\w+)"', text) == [
        ("3", "rounds"), ("0.5", "scoring"), ("1", "rounds"), ("0.25", "scoring"),
    ]  # fmt: skip


class Heard(Silent):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.purposes: list[str] = []

    def doing(self, purpose: str) -> None:
        self.purposes.append(purpose)


def test_progress_is_told_what_is_done_beside_rounds(tmp_path: Path) -> None:
    heard = Heard()
    run(validate(DOCUMENT, tmp_path, "test"), tmp_path / "r.h5", heard)
    beside = [purpose for purpose in heard.purposes if purpose in ("scoring", "final_stages")]
    assert beside == ["scoring"] * beside.count("scoring") + ["final_stages"]
    assert beside.count("scoring") >= 2
