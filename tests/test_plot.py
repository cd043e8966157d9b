"""`ppfl plot`: what varies becomes panels, colours and lines; what cannot be drawn is said."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ppfl.analysis.collect import collect
from ppfl.analysis.curves import load_curves
from ppfl.analysis.figure import draw_figure, save_figure
from ppfl.analysis.plot import plot_or_explain
from ppfl.analysis.sources import open_source, results_at
from tests.conftest import MakeResult
from tests.grids import curve, fill, grid_file, in_all_states, ppfl

GRID = "{problem.zeta: [0, 10], algorithm.fine_tuner.steps: [1, 2, 5], seed: [0, 1]}"


def lines_of(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if len(line.get_xdata()) > 1]


def titles_of(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.slow
def test_the_formats_are_what_the_endings_say(make_result: MakeResult, tmp_path: Path) -> None:
    config = grid_file(tmp_path, GRID)
    fill(make_result, config)
    for name, beginning in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml"), ("b", b"\x89PNG")):
        done = ppfl("plot", config, "--results", tmp_path, "--out", tmp_path / "figures" / name)
        assert done.exit_code == 0, done.stderr
        written = Path(done.stdout.strip())
        assert written == (tmp_path / "figures" / name).with_suffix(Path(name).suffix or ".png")
        assert written.read_bytes().startswith(beginning)


def test_a_grid_a_folder_and_a_collection_give_the_same_figure(make_result: MakeResult, tmp_path: Path) -> None:
    config = grid_file(tmp_path, GRID)
    fill(make_result, config)
    grid = tmp_path / "out" / "grid.h5"
    collect(open_source(tmp_path), grid)
    drawn = []
    for source in (open_source(tmp_path), open_source(config, tmp_path), open_source(grid)):
        figure = draw_figure(load_curves(source))
        assert titles_of(figure) == ["problem.zeta = 0", "problem.zeta = 10"]
        assert legend_of(figure)[:4] == ["fine_tuner.steps", "1", "2", "5"]
        drawn.append(sorted(tuple(line.get_ydata()) for axes in figure.axes for line in lines_of(axes)))
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(drawn[0]) == 6


def test_panel_and_colour_can_be_chosen(make_result: MakeResult, tmp_path: Path) -> None:
    fill(make_result, grid_file(tmp_path, GRID))
    curves = load_curves(open_source(tmp_path))
    by_steps = draw_figure(curves, panel="steps")
    assert titles_of(by_steps) == [f"fine_tuner.steps = {steps}" for steps in (1, 2, 5)]
    assert legend_of(by_steps)[:3] == ["problem.zeta", "0", "10"]
    assert titles_of(draw_figure(curves, panel="problem.zeta")) == ["problem.zeta = 0", "problem.zeta = 10"]
    by_colour = draw_figure(curves, colour="fine_tuner.steps")
    assert titles_of(by_colour) == ["problem.zeta = 0", "problem.zeta = 10"]
    assert legend_of(by_colour)[:4] == ["fine_tuner.steps", "1", "2", "5"]


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ("round", [0, 10, 20]),
        ("seconds", [0, 0.5, 1.0]),
        ("virtual-seconds", [0, 2, 4]),
        ("uplink-bytes", [0, 8, 16]),
        ("gradients", [0, 3, 6]),
    ],
)
def test_curves_are_drawn_against_what_is_asked(make_result: MakeResult, x: str, expected: list[float]) -> None:
    costs = {
        "shared_gradients": [0.0, 1.0, 2.0],
        "local_gradients": [0.0, 2.0, 4.0],
        "virtual_seconds": [0.0, 2.0, 4.0],
    }
    path = make_result("00", {"name": "one"}, curve(1.0, 3) | costs)
    (axes,) = draw_figure(load_curves(results_at([path]), x=x)).axes
    assert np.asarray(lines_of(axes)[0].get_xdata()).tolist() == expected
    assert axes.get_xlabel()


def test_costs_of_seeds_become_their_median(make_result: MakeResult) -> None:
    paths = [
        make_result(f"{seed}", {"name": "one", "seed": seed}, {"loss": [1.0, 2.0], "uplink_bytes": [0.0, float(cost)]})
        for seed, cost in enumerate((1, 5, 9))
    ]
    (axes,) = draw_figure(load_curves(results_at(paths), x="uplink-bytes")).axes
    assert np.asarray(lines_of(axes)[0].get_xdata()).tolist() == [0, 5]


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1.0, 0.1, 0.001], "log"), ([1.0, 0.1, 0.02], "linear"), ([1e4, 1.0, -1.0], "linear"), ([1e4, 1.0, 0.0], "log")],
)
def test_the_scale_is_logarithmic_over_more_than_two_decades(
    make_result: MakeResult, values: list[float], scale: str
) -> None:
    (axes,) = draw_figure(load_curves(results_at([make_result("00", {"name": "one"}, {"loss": values})]))).axes
    assert axes.get_yscale() == scale


def test_what_is_incomplete_is_marked_and_what_is_absent_is_told(make_result: MakeResult, tmp_path: Path) -> None:
    config = grid_file(tmp_path, "{problem.zeta: [0, 1, 10], seed: [0, 1]}")
    in_all_states(make_result, config)
    figure = draw_figure(load_curves(open_source(config, tmp_path)))
    assert figure._supxlabel is not None
    assert figure._supxlabel.get_text() == "not drawn: 1 failed, 1 missing"
    assert legend_of(figure)[-2:] == ["diverged", "incomplete"]
    done = ppfl("plot", config, "--results", tmp_path, "--out", tmp_path / "a.svg")
    assert "2 failed, 1 missing, 1 running of 6 runs" in done.stderr


def test_of_keys_that_tell_cases_apart_the_name_of_the_method_is_shown(make_result: MakeResult) -> None:
    cases: list[tuple[list[str], dict[str, Any]]] = [
        ([], {"name": "fedavg"}),
        (["head.*"], {"name": "ffgg", "fine_tuner": {"steps": 5}}),
        (["*"], {"name": "alone"}),
    ]
    paths = [
        make_result(f"{n}", {"name": "a", "problem": {"local": local}, "algorithm": method}, curve(n + 1.0))
        for n, (local, method) in enumerate(cases)
    ]
    assert legend_of(draw_figure(load_curves(results_at(paths)))) == ["algorithm.name", "fedavg", "ffgg", "alone"]


def test_cases_are_colours_of_one_panel(make_result: MakeResult) -> None:
    cases: list[dict[str, Any]] = [
        {"name": "ffgg", "steps": 1}, {"name": "ffgg", "steps": 5}, {"name": "fedper"},
    ]  # fmt: skip
    paths = [
        make_result(f"{seed}{number}", {"name": "a", "seed": seed, "algorithm": case}, curve(number + 1.0))
        for number, case in enumerate(cases)
        for seed in (0, 1)
    ]
    figure = draw_figure(load_curves(results_at(paths)))
    assert len(figure.axes) == 1
    labels = ["name=ffgg, steps=1", "name=ffgg, steps=5", "name=fedper"]
    assert legend_of(figure)[1:4] == labels
    by_name = load_curves(results_at(paths), keep=["algorithm.name"])
    assert titles_of(draw_figure(by_name, panel="algorithm.name")) == [
        "algorithm.name = ffgg",
        "algorithm.name = fedper",
    ]


def too_much(make_result: MakeResult) -> list[Path]:
    return [
        make_result(f"{number:04}", {"name": "one", "a": {"x": x, "y": y}}, {"loss": [1.0, 2.0]})
        for number, (x, y) in enumerate(itertools.product(range(17), range(13)))
    ]


@pytest.mark.slow
def test_too_much_for_one_figure_is_refused_with_the_remedy(make_result: MakeResult, tmp_path: Path) -> None:
    paths = too_much(make_result)
    out = tmp_path / "figures" / "a.png"
    done = ppfl("plot", tmp_path, "--out", out)
    assert done.exit_code == 2
    assert "too much varies for one figure: a.x (17 values), a.y (13 values)" in done.stderr
    assert "--where KEY=VALUE" in done.stderr
    assert not out.exists()
    plot_or_explain(paths, [out.with_suffix(".svg")])  # which a workflow waits for
    assert out.with_suffix(".svg").read_text().startswith("<?xml")
    assert ppfl("plot", tmp_path, "--out", out, "--where", "x=1", "--where", "y=2").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "a.gif"], "--out a.gif: .gif is no format of figures here; allowed: .png, .pdf, .svg"),
        (
            ["--metric", "speed"],
            "--metric: the runs have no speed; they all have: operator_norm, seconds",
        ),
        (["--x", "virtual-seconds"], "--x virtual-seconds: the runs have no virtual_seconds"),
        (["--panel", "beta"], "--panel beta: no such key; allowed: "),
        (["--panel", "zeta", "--color", "zeta"], "--panel zeta: is the colour already"),
    ],
)
def test_mistakes_are_told_in_one_line(
    make_result: MakeResult, tmp_path: Path, arguments: list[str], words: str
) -> None:
    fill(make_result, grid_file(tmp_path, GRID))
    done = ppfl("plot", tmp_path, "--out", tmp_path / "a.png", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"ppfl: error: {words}")
    assert len(done.stderr.splitlines()) == 1


def test_runs_that_have_not_begun_are_no_figure(tmp_path: Path) -> None:
    done = ppfl("plot", grid_file(tmp_path, GRID), "--results", tmp_path, "--out", tmp_path / "a.png")
    assert done.exit_code == 2
    assert "no run has recorded a round yet (12 missing)" in done.stderr


def test_any_text_can_stand_in_a_figure(make_result: MakeResult, tmp_path: Path) -> None:
    texts = [r"$\frac{1}$", "two\nlines", "_hidden", "\x1b[31m", "<b>&"]
    for number, text in enumerate(texts):
        make_result(f"{number}", {"name": "$x_$", "what": text, "$k$": number % 2}, {"loss $a$": [1.0, 2.0]})
    figure = draw_figure(load_curves(open_source(tmp_path)), panel="what")
    shown = {r"$\frac{1}$", r"two\nlines", "_hidden", r"\x1b[31m", "<b>&"}
    assert set(titles_of(figure)) == {f"what = {text}" for text in shown}
    save_figure(figure, [tmp_path / "out.png", tmp_path / "out.svg"])
    ElementTree.parse(tmp_path / "out.svg")
    figure = draw_figure(load_curves(open_source(tmp_path)), colour="what")
    assert shown <= {text.strip("\N{WORD JOINER}") for text in legend_of(figure)}
    save_figure(figure, [tmp_path / "out.png"])


def test_what_cannot_be_drawn_is_told_whatever_it_says(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result("0", {"name": r"$\frac{1}$"}, {"a": []} | {"loss": []})
    plot_or_explain([result], [tmp_path / "out.svg"])
    assert (tmp_path / "out.svg").exists()


def test_titles_of_sections_are_what_tells_them_apart(make_result: MakeResult, tmp_path: Path) -> None:
    tuners = [
        {"name": "conjugate_gradient", "steps": 5, "start": "redraw", "tolerance": 1e-9, "restart": 7},
        {"name": "adam", "lr": 0.01, "batch_size": "all", "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    ]
    for number, (tuner, zeta) in enumerate(itertools.product(tuners, (0.0, 10.0))):
        settings = {"name": "one", "problem": {"zeta": zeta}, "algorithm": {"fine_tuner": tuner}}
        make_result(f"{number}", settings, {"loss": [1.0, 2.0]})
    curves = load_curves(open_source(tmp_path))
    assert sorted(titles_of(draw_figure(curves, panel="fine_tuner.name"))) == [
        "fine_tuner.name = adam", "fine_tuner.name = conjugate_gradient",
    ]  # fmt: skip
    assert titles_of(draw_figure(curves, panel="beta1")) == titles_of(draw_figure(curves, panel="fine_tuner.name"))


def test_a_long_legend_is_inside_the_figure(make_result: MakeResult) -> None:
    cases = [{"name": f"method {number}" + " with a long name" * 5} for number in range(12)]
    paths = [
        make_result(f"{number:04}", {"name": "a", "algorithm": case}, curve(number + 1.0))
        for number, case in enumerate(cases)
    ]
    figure = draw_figure(load_curves(results_at(paths)))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) >= len(cases)
    assert legend.get_window_extent().y0 >= 0
