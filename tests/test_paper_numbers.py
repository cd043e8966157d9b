"""The numbers of the paper's page: compared seed by seed, at equal work and equal bytes, written by one command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppfl.analysis.paper.comparison import _after, _by_panel, _communications, _label
from ppfl.analysis.paper.exhibit import ratios
from ppfl.analysis.paper.numbers import EXHIBITS, TABLES, fill, fingerprints
from ppfl.analysis.paper.runs import Run
from ppfl.config.grid import load_cells
from ppfl.config.run import validate
from ppfl.core.errors import UserError

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "configs" / "paper"
PAGE = ROOT / "docs" / "paper.md"
PROBLEM = {"name": "quadratic", "generator": "comparison", "zeta": 1, "clients": 4, "shared_dimension": 8,
           "local_dimension": 4}  # fmt: skip
STEPS = {"lr": 0.1, "local_steps": 5}
COIN = {"lr": 0.1, "penalty": 1.0}


@pytest.mark.parametrize(
    ("runs", "predicted", "expected"),
    [
        ([2.0, 3.0, 8.0], [1.0, 2.0, 2.0], "2 × (1.5 to 4)"),
        ([0.93, 0.93001], [0.93, 0.93001], "1 ×"),
        ([1.0, np.inf], [1.0, 1.0], "–"),
        ([1.0, 1.0], [0.0, 0.0], "–"),
        ([1.0, 1.0], [np.nan, np.nan], "–"),
    ],
)
def test_runs_are_compared_with_their_own_predictions(
    runs: Sequence[float], predicted: Sequence[float], expected: str
) -> None:
    """The ratio of the medians of the first row would be 1.5."""
    assert ratios(runs, predicted) == expected


def made_up(algorithm: dict[str, Any], seed: int = 0, **series: Sequence[float]) -> Run:
    split = {"local": []} if algorithm["name"] in ("l2gd", "local_gd") else {"local": ["w"]}
    document = {"name": "x", "rounds": 10, "seed": seed, "problem": {**PROBLEM, "split": split}}
    config = validate({**document, "algorithm": algorithm}, Path(), "test")
    return Run(config, "complete", {name: np.array(values, dtype=np.float64) for name, values in series.items()})


def test_l2gd_stands_where_work_is_equal() -> None:
    """p = 1/5 beside 5 local steps; p = 1/2, which nobody equals, beside one."""
    five, one = made_up({"name": "fedsim", **STEPS}), made_up({"name": "fedsim", **STEPS, "local_steps": 1})
    fifth, half = (made_up({"name": "l2gd_theta", **COIN, "probability": p}) for p in (0.2, 0.5))
    found = _by_panel([five, half, fifth, one])
    assert {key: [id(run) for run in runs] for key, runs in found.items()} == {
        (1.0, 1): [id(half), id(one)], (1.0, 5): [id(five), id(fifth)],
    }  # fmt: skip
    assert list(found) == [(1.0, 1), (1.0, 5)]
    assert _label(half, "L2GD", 1) == "L2GD (2 gradients a communication)"
    assert _label(fifth, "L2GD", 5) == "L2GD"


@pytest.mark.parametrize(("name", "length"), [("l2gd", 12), ("l2gd_theta", 8)])
def test_communications_of_l2gd_are_counted(name: str, length: int) -> None:
    one = 4 * 8 * length
    coin = {"name": name, **COIN, "probability": 0.5}
    seeds = [made_up(coin, seed, round=[0, 5, 10], uplink_bytes=[0, one * sent, one * 3]) for seed, sent in
             enumerate((1, 1, 2))]  # fmt: skip
    assert _communications(seeds).tolist() == [0, 1, 3]
    assert _communications([made_up({"name": "fedsim", **STEPS}, round=[0, 5, 10])]).tolist() == [0, 5, 10]


def test_equal_bytes_are_those_sent_up_and_down() -> None:
    sent = {"uplink_bytes": [0, 10, 20, 30], "downlink_bytes": [0, 10, 20, 30], "operator_norm": [8, 4, 2, 1]}
    run = made_up({"name": "scaffold_theta", **STEPS}, round=[0, 1, 2, 3], **sent)  # type: ignore[arg-type]
    assert [_after(budget, run) for budget in (0, 39, 40, 1000)] == [8, 4, 2, 1]


def test_every_l2gd_of_the_paper_makes_600_communications_of_as_many_gradients_as_the_others() -> None:
    for path in PAPER.glob("tuning-*.yaml"):
        runs = [Run(cell.config, "", {}) for cell in load_cells(path).values()]
        for (_, steps), members in _by_panel(runs).items():
            coined = [run.config for run in members if run.config.algorithm.name.startswith("l2gd")]
            assert {config.algorithm.name for config in coined} == {"l2gd", "l2gd_theta"}
            for config in coined:
                p = config.model_dump()["algorithm"]["probability"]
                assert config.rounds * p * (1 - p) == pytest.approx(600, rel=1e-3)
                assert 1 / p == pytest.approx(2 if steps == 1 else steps)


HEADERS = {
    "steps": ("CG steps", "final ‖F‖", "predicted", "run / predicted", "largest distance"),
    "comparison": ("ζ", "τ", "method", "step size", "final ‖F‖", "predicted (FFGG) or floor", "run / predicted",
                   "‖F‖ at equal bytes"),
    "asynchronous": ("targets", "straggler", "method", "virtual seconds", "final ‖F‖", "predicted", "run / predicted"),
    "byzantine": ("targets", "rule", "final ‖F‖, or growth a round", "predicted", "run / predicted"),
    "abstract": ("trouble", "targets", "ζ", "final ‖F‖", "predicted", "run / predicted"),
}  # fmt: skip
COMPARED = [
    ("0", "5", "FFGG", "0.1", "2.3e-4", "2.3e-4", "1 ×", "1.2e-4"),
    ("0", "5", "Scaffold, θ shared", "0.1", "4e-5", "no floor", "–", "5.8e-4"),
    ("1", "1", "FFGG", "0.1", "0.009", "0.005", "1.8 ×", "0.007"),
    ("1", "1", "Scaffold, θ shared", "0.1", "0.047", "no floor", "–", "diverged"),
    ("1", "1", "L2GD, θ shared (2 gradients a communication)", "0.1", "0.05", "0.004", "12 ×", "0.001"),
]


def stored() -> dict[str, Any]:
    words: dict[str, Any] = {
        name: {"header": header, "rows": [[f"{name} {column}" for column in header]]}
        for name, header in HEADERS.items()
    }
    words["comparison"]["rows"] = COMPARED
    return {"words": words}


def test_tables_are_written_between_their_markers_and_nothing_else() -> None:
    page = "Before.\n" + "".join(
        f"Text.\n\n<!-- numbers: {name} -->\nstale\n<!-- end of numbers -->\n" for name in TABLES
    )
    written = fill(page + "After 0.1.\n", stored())
    assert fill(written, stored()) == written
    assert "stale" not in written
    assert written.startswith("Before.\nText.\n")
    assert written.endswith("<!-- end of numbers -->\nAfter 0.1.\n")
    lines = written.splitlines()
    assert "| method | ζ = 0, τ = 5 | ζ = 1, τ = 1 |" in lines
    assert "| Scaffold, θ shared | 4e-5 (no floor) | 0.047 (no floor) |" in lines
    assert "| L2GD, θ shared | – | 0.05 (0.004) |" in lines
    assert "| FFGG | 1.2e-4 | 0.007 |" in lines
    # ahead per communication, and behind at equal bytes; what has diverged is behind
    assert "| Scaffold, θ shared | ζ = 0, τ = 5 | nowhere |" in lines
    assert "| L2GD, θ shared | nowhere | everywhere |" in lines


@pytest.mark.parametrize("change", [("equal-bytes", "equalbytes"), ("ahead", "steps")])
def test_a_page_that_lacks_a_table_is_refused(change: tuple[str, str]) -> None:
    page = "".join(f"<!-- numbers: {name} -->\n<!-- end of numbers -->\n" for name in TABLES)
    with pytest.raises(UserError, match="wanted one pair of markers for each of steps, comparison, equal-bytes"):
        fill(page.replace(*(f"numbers: {name} " for name in change)), stored())


def test_the_page_has_a_place_for_every_table() -> None:
    assert fill(PAGE.read_text(encoding="utf-8"), stored())


def test_fingerprints_tell_which_runs_are_meant(tmp_path: Path) -> None:
    sections = "name: x\nrounds: 2\nproblem: {name: quadratic, generator: comparison}\n"
    text = sections + "algorithm: {name: fedsim, lr: 0.1, local_steps: %d}\n"
    found = []
    for steps, note in ((1, ""), (1, "# a note\n"), (2, "")):
        (tmp_path / "steps.yaml").write_text(note + text % steps)
        (tmp_path / "workflow.yaml").write_text("paper: {}\n")
        found.append(fingerprints(tmp_path))
    assert found[0] == found[1] != found[2]
    assert list(found[0]) == ["steps"]


def test_the_page_says_what_was_computed_with_the_configurations_as_they_are() -> None:
    told = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert told["experiments"] == fingerprints(PAPER)
    assert set(told["words"]) == set(EXHIBITS)
    assert fill(page, told) == page
