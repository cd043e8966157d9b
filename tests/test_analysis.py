"""Figures and report: what they show is what the results hold."""

from __future__ import annotations

import base64
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

import ppfl.analysis
from ppfl.analysis.curves import band, load_curves
from ppfl.analysis.factors import find_factors
from ppfl.analysis.figure import draw_figure, save_figure
from ppfl.analysis.report import Section, write_report
from ppfl.analysis.sources import results_at
from ppfl.core.errors import UserError
from tests.conftest import MakeResult


def config(zeta: float = 0, steps: int = 1, seed: int = 0) -> dict[str, Any]:
    return {
        "name": "trial",
        "seed": seed,
        "problem": {"name": "quadratic", "zeta": zeta},
        "algorithm": {"name": "ffgg", "fine_tuner": {"name": "conjugate_gradient", "steps": steps}},
    }


def series(scale: float) -> dict[str, list[float]]:
    return {"operator_norm": [scale * 0.5**k for k in range(6)], "loss": [scale] * 6}


def grid(make_result: MakeResult, seeds: tuple[int, ...] = (0,)) -> list[Path]:
    combinations = itertools.product([0, 1, 10], [1, 2, 5], seeds)
    return [
        make_result(f"{number:08x}", config(zeta, steps, seed), series(1 + number))
        for number, (zeta, steps, seed) in enumerate(combinations)
    ]


def data_lines(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if len(line.get_xdata()) > 1]


def test_panels_and_lines_are_the_runs(make_result: MakeResult) -> None:
    figure = draw_figure(load_curves(results_at(grid(make_result))))
    assert [axes.get_title() for axes in figure.axes] == [f"problem.zeta = {zeta}" for zeta in (0, 1, 10)]
    number = 0
    for axes in figure.axes:
        assert axes.get_yscale() == "log"
        lines = data_lines(axes)
        assert len({line.get_color() for line in lines}) == 3
        for line in lines:
            np.testing.assert_array_equal(line.get_xdata(), np.arange(0, 60, 10))
            np.testing.assert_array_equal(line.get_ydata(), series(1 + number)["operator_norm"])
            number += 1
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["fine_tuner.steps", "1", "2", "5"]
    assert figure.axes[0].get_xlabel() == "communication round"
    assert "F(\\theta)" in figure.axes[0].get_ylabel()


def test_seeds_become_median_and_band(make_result: MakeResult) -> None:
    paths = [make_result(f"{seed:08x}", config(seed=seed), series(scale)) for seed, scale in enumerate((5, 1, 2))]
    curves = load_curves(results_at(paths))
    assert curves.factors == ()
    axes = draw_figure(curves).axes[0]
    (line,) = data_lines(axes)
    np.testing.assert_array_equal(line.get_ydata(), series(2)["operator_norm"])
    outline = axes.collections[0].get_paths()[0].vertices
    assert outline[:, 1].max() == 5.0
    assert outline[:, 1].min() == series(1)["operator_norm"][-1]


def test_runs_that_stopped_early_are_marked(make_result: MakeResult) -> None:
    broken = {"operator_norm": [1.0, 1e6, float("nan")], "loss": [1.0, 1e6, float("inf")]}
    paths = [
        make_result("00000000", config(steps=1), series(1)),
        make_result("00000001", config(steps=2), broken, status="diverged"),
        make_result("00000002", config(steps=5), series(2), status="running"),
    ]
    figure = draw_figure(load_curves(results_at(paths)))
    single = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    ends = [(line.get_marker(), float(line.get_ydata()[0])) for line in single]
    assert ends == [("x", 1e6), (">", series(2)["operator_norm"][-1])]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-2:] == ["diverged", "incomplete"]


def test_accuracy_is_drawn_where_there_is_no_operator_norm(make_result: MakeResult) -> None:
    accuracies = [0.1, 0.5, 0.75, 0.9]
    path = make_result("00000000", config(), {"test_accuracy": accuracies, "loss": [1.0] * 4})
    axes = draw_figure(load_curves(results_at([path]))).axes[0]
    np.testing.assert_array_equal(data_lines(axes)[0].get_ydata(), accuracies)
    assert axes.get_yscale() == "linear"
    assert "test accuracy" in axes.get_ylabel()


def test_band_keeps_the_rounds_that_all_runs_have(make_result: MakeResult) -> None:
    short = {name: values[:3] for name, values in series(2).items()}
    paths = [
        make_result("00000000", config(seed=0), series(1)),
        make_result("00000001", config(seed=1), short, status="diverged"),
    ]
    curves = load_curves(results_at(paths))
    summary = band(curves.curves)
    np.testing.assert_array_equal(summary.rounds, [0, 10, 20])
    np.testing.assert_array_equal(summary.highest, short["operator_norm"])
    assert (summary.num_runs, summary.num_diverged) == (2, 1)


def test_keys_that_vary_together_are_one_factor() -> None:
    pairs = itertools.product([(1, "p"), (2, "q")], [3, 1])
    configs = [{"a": {"x": x, "y": y}, "b": b, "seed": b} for (x, y), b in pairs]
    together, alone = find_factors(configs)
    assert (together.title, together.levels, together.numbers) == ("a.x, a.y", ["1, p", "2, q"], None)
    assert (alone.title, alone.levels) == ("b", ["1", "3"])


def test_equal_values_of_different_keys_are_told_apart() -> None:
    (factor,) = find_factors([{"local_steps": 5, "epochs": None}, {"local_steps": None, "epochs": 5}])
    assert factor.labels == ("local_steps = 5", "epochs = 5")


def test_numbers_are_in_their_order_and_not_in_that_of_letters() -> None:
    (factor,) = find_factors([{"steps": steps} for steps in (10, 2, 1)])
    assert factor.levels == ["1", "2", "10"]


def test_more_factors_than_two_use_line_styles(make_result: MakeResult) -> None:
    paths = []
    for number, (zeta, steps, lr) in enumerate(itertools.product([0, 1], [1, 2], [0.1, 0.2])):
        settings = config(zeta, steps)
        settings["algorithm"]["lr"] = lr
        paths.append(make_result(f"{number:08x}", settings, series(1 + number)))
    figure = draw_figure(load_curves(results_at(paths)))
    assert len(figure.axes) == 2
    drawn = {(line.get_color(), line.get_linestyle()) for line in data_lines(figure.axes[0])}
    assert len(drawn) == 4


def test_a_figure_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="at least one result"):
        results_at([])


def test_equal_figures_are_equal_files(make_result: MakeResult, tmp_path: Path) -> None:
    curves = load_curves(results_at(grid(make_result)))
    for name in ("a", "b"):
        save_figure(draw_figure(curves), [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


class _Page(HTMLParser):
    """Collects what a test asks of a page: addresses it loads, rows of tables with their class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.rows: list[tuple[str, list[str]]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in ("img", "script", "link", "iframe"):
            self.loaded.append(attributes.get("src") or attributes.get("href") or "")
        if tag == "tr":
            self.rows.append((attributes.get("class") or "", []))
        self._in_cell = tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell and data.strip():
            self.rows[-1][1].append(data.strip())


def make_report(paths: list[Path], folder: Path) -> str:
    save_figure(draw_figure(load_curves(results_at(paths))), [folder / "trial.svg"])
    write_report([Section("trial", paths, folder / "trial.svg")], folder / "out" / "report.html")
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_report_is_self_contained_and_inlines_the_figure(make_result: MakeResult, tmp_path: Path) -> None:
    text = make_report(grid(make_result), tmp_path)
    (picture,) = _Page(text).loaded
    encoded = picture.removeprefix("data:image/svg+xml;base64,")
    assert base64.b64decode(encoded) == (tmp_path / "trial.svg").read_bytes()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//)|@import|url\(", text)


def test_report_loads_and_runs_nothing_whatever_its_results_say(make_result: MakeResult, tmp_path: Path) -> None:
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>"
    settings = {**config(), "note": evil}
    text = make_report([make_result("0", settings, series(1)), make_result("1", config(), series(1))], tmp_path)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    for page in (text, (Path(ppfl.analysis.__file__).parent / "paper.html.j2").read_text(encoding="utf-8")):
        assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page
    assert "<script" not in text
    assert len(_Page(text).loaded) == 1


def test_report_tells_final_metrics_status_config_and_provenance(make_result: MakeResult, tmp_path: Path) -> None:
    broken = {"operator_norm": [1.0, 1e6], "loss": [1.0, 1e6]}
    paths = [
        make_result("aaaaaaaa00", config(steps=1), series(1)),
        make_result("bbbbbbbb00", config(steps=2), broken, status="diverged"),
        make_result("cccccccc00", config(steps=5), series(2), status="running"),
    ]
    text = make_report(paths, tmp_path)
    rows = {row[1][0]: row for row in _Page(text).rows if row[1]}
    assert rows["digest"][1][:4] == ["digest", "algorithm.fine_tuner.steps", "status", "rounds"]
    expected = ["aaaaaaaa", "1", "complete", "50", "0.03125", "50.00 %", "75.00 %", "81.25 %", "2.5"]
    assert rows["aaaaaaaa"] == ("complete", expected)
    assert rows["bbbbbbbb"][0] == "diverged"
    assert rows["cccccccc"][0] == "incomplete"
    assert rows["cccccccc"][1][5:8] == ["–", "–", "–"]
    assert rows["commit"][1] == ["commit", "0123456789ab"]
    assert "conjugate_gradient" in text
    assert "1 run complete" in text


def test_report_escapes_what_configurations_say(make_result: MakeResult, tmp_path: Path) -> None:
    settings = config() | {"name": "<script>alert(1)</script>"}
    text = make_report([make_result("00000000", settings, series(1))], tmp_path)
    assert "<script>" not in text
