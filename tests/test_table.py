"""`ppfl table`: what varies and what came of it, in four formats."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ppfl.analysis.collect import collect
from ppfl.analysis.sources import open_source
from tests.conftest import MakeResult
from tests.grids import fill, grid_file, in_all_states, ppfl

GRID = "{problem.zeta: [0, 10], seed: [0, 1, 2]}"

TEXT = """\
zeta  status      operator norm
0     3 complete  0.0002 [0.0001, 0.0003]
10    3 complete  0.0005 [0.0004, 0.0006]
"""
CSV = """\
zeta,status,uplink_bytes,uplink_bytes min,uplink_bytes max,uplink_bytes runs
0.0,3 complete,16.0,16.0,16.0,3
10.0,3 complete,16.0,16.0,16.0,3
"""
MARKDOWN = """\
| zeta | status | operator norm |
| --- | --- | --- |
| 0 | 3 complete | 0.0002 [0.0001, 0.0003] |
| 10 | 3 complete | 0.0005 [0.0004, 0.0006] |
"""
LATEX = r"""\begin{tabular}{lll}
\hline
zeta & status & uplink bytes \\
\hline
0 & 3 complete & 16 [16, 16] \\
10 & 3 complete & 16 [16, 16] \\
\hline
\end{tabular}
"""


@pytest.fixture
def config(make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = grid_file(tmp_path, GRID)
    fill(make_result, path)
    return path


def table(source: Path, *arguments: str | Path) -> str:
    done = ppfl("table", source, *arguments)
    assert done.exit_code == 0, done.stderr
    return str(done.stdout)


def test_formats_are_as_they_were(config: Path, tmp_path: Path) -> None:
    assert table(tmp_path) == TEXT
    assert table(tmp_path, "--format", "csv", "--metric", "uplink_bytes", "--at", "20") == CSV
    assert table(tmp_path, "--format", "markdown") == MARKDOWN
    assert table(tmp_path, "--format", "latex", "--metric", "uplink_bytes", "--at", "20") == LATEX
    assert r"75.00 \% [75.00 \%, 75.00 \%]" in table(tmp_path, "--format", "latex", "--metric", "test_accuracy")


def test_a_folder_a_grid_and_a_collection_give_the_same_table(config: Path, tmp_path: Path) -> None:
    collect(open_source(tmp_path), tmp_path / "out" / "grid.h5")
    assert table(config, "--results", tmp_path) == TEXT
    assert table(tmp_path / "out" / "grid.h5") == TEXT
    by_stage = ("--metric", "test_accuracy", "--format", "csv")
    assert table(tmp_path / "out" / "grid.h5", *by_stage) == table(tmp_path, *by_stage)


def test_seeds_can_be_shown_singly(config: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(table(tmp_path, "--seeds", "--format", "csv"))))
    assert [(row["zeta"], row["seed"]) for row in rows] == [(z, s) for z in ("0.0", "10.0") for s in ("0", "1", "2")]
    assert [float(row["operator_norm"]) for row in rows] == pytest.approx([k * 1e-4 for k in range(1, 7)])
    assert {row["status"] for row in rows} == {"complete"}


def test_best_is_the_lowest_norm_and_the_highest_accuracy(make_result: MakeResult, tmp_path: Path) -> None:
    settings = {"name": "one", "seed": 0}
    path = make_result("00", settings, {"loss": [3.0, 1.0, 2.0], "test_accuracy": [0.25, 0.75, 0.5]})
    best = table(path, "--at", "best", "--metric", "loss", "--metric", "test_accuracy", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(best))
    assert (row["loss"], row["test_accuracy"], row["status"]) == ("1.0", "0.75", "complete")
    (row,) = csv.DictReader(io.StringIO(table(path, "--at", "last", "--metric", "test_accuracy", "--format", "csv")))
    assert row["test_accuracy"] == "0.5"
    assert "test accuracy tuned" in table(path)
    for name, wanted in {
        "test_hit_rate_at_5": "0.75",
        "test_accuracy_with_special_tokens": "0.75",
        "x_norm": "0.25",
    }.items():
        path = make_result(name, settings, {"loss": [3.0, 1.0, 2.0], name: [0.25, 0.75, 0.5]})
        (row,) = csv.DictReader(io.StringIO(table(path, "--at", "best", "--metric", name, "--format", "csv")))
        assert row[name] == wanted


def test_other_statistics_over_clients(make_result: MakeResult, tmp_path: Path) -> None:
    path = make_result("00", {"name": "one", "seed": 0}, {"loss": [3.0, 1.0]})
    chosen = ("--metric", "test_accuracy", "--format", "csv", "--statistic")
    (row,) = csv.DictReader(io.StringIO(table(path, *chosen, "q10")))
    assert row["test_accuracy personal q10"] == "0.75"
    assert table(path, *chosen, "mean") == table(path, *chosen[:-1])
    refused = ppfl("table", path, *chosen, "q20")
    assert (
        refused.stderr
        == "ppfl: error: --statistic q20: no such statistic; allowed: mean, weighted_mean, q10, q50, q90\n"
    )
    refused = ppfl("table", path, "--metric", "loss", "--statistic", "q10")
    assert (
        refused.stderr == "ppfl: error: --statistic q10: of loss there is a mean at each round alone; allowed: mean\n"
    )


def test_incomplete_runs_are_counted_and_not_averaged(make_result: MakeResult, tmp_path: Path) -> None:
    config = grid_file(tmp_path, "{problem.zeta: [0, 1, 10], seed: [0, 1]}")
    in_all_states(make_result, config)
    done = ppfl("table", config, "--results", tmp_path)
    lines = done.stdout.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines[1:]] == [
        "1 complete, 1 diverged  0.0001", "1 failed, 1 running     –", "1 failed, 1 missing     –",
    ]  # fmt: skip
    assert "2 failed, 1 missing, 1 running of 6 runs" in done.stderr


def test_where_selects_runs(config: Path, tmp_path: Path) -> None:
    assert table(tmp_path, "--where", "problem.name=quadratic") == TEXT
    assert table(tmp_path, "--where", "zeta=10", "--where", "seed=1").splitlines()[1] == "complete  0.0005"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "speed"], "--metric speed: the runs have no such metric; allowed: operator_norm"),
        (["--at", "soon"], "--at soon: no such time; allowed: last, best, or a round"),
        (["--at", "²"], "--at ²: no such time; allowed: last, best, or a round"),
        (["--at", "١"], "--at ١: no such time; allowed: last, best, or a round"),
        (["--at", "9" * 5000], "--at 9"),
        (["--at", "7"], "--at 7: no complete run was evaluated there; allowed: 0, 10, 20, 30, 40, last, best"),
        (["--where", "zeta=3"], "--where zeta=3: fits no run; problem.zeta is 0.0, 10.0"),
        (["--where", "beta=3"], "--where beta=3: no such key; allowed: "),
        (["--where", "name=ffgg"], "--where name=ffgg: fits several keys; allowed: "),
        (["--where", "zeta"], "--where zeta: fits no run"),
        (["--out", "trial.yaml/table.txt"], "--out trial.yaml/table.txt: cannot write it"),
    ],
)
def test_mistakes_are_told_in_one_line(config: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = ppfl("table", tmp_path, *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"ppfl: error: {words}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["nothing", "empty", "text.h5"])
def test_a_source_that_is_none_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.h5").write_text("no HDF5")
    done = ppfl("table", tmp_path / name)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_table_goes_to_a_file(config: Path, tmp_path: Path) -> None:
    assert table(tmp_path, "--out", tmp_path / "deep" / "table.txt") == ""
    assert (tmp_path / "deep" / "table.txt").read_text(encoding="utf-8") == TEXT


def test_the_end_of_a_key_is_taken_for_one_that_varies(make_result: MakeResult, tmp_path: Path) -> None:
    for number, lr in enumerate((0.1, 0.2)):
        settings = {"name": "one", "algorithm": {"lr": lr}, "server_optimizer": {"lr": 1.0}}
        make_result(f"{number}", settings, {"loss": [1.0, lr]})
    assert table(tmp_path, "--metric", "loss", "--where", "lr=0.2").splitlines()[1].split() == ["complete", "0.2"]


@pytest.fixture
def cohorts(make_result: MakeResult, tmp_path: Path) -> Path:
    """One client, half of them, all of them."""
    for number, cohort in enumerate((1, 0.5, 1.0)):
        make_result(f"{number}", {"name": "one", "cohort": cohort}, {"loss": [1.0, cohort]})
    return tmp_path


def test_one_is_not_one_point_zero_nor_true(cohorts: Path, tmp_path: Path) -> None:
    labels = [line.split()[0] for line in table(cohorts, "--metric", "loss").splitlines()[1:]]
    assert sorted(labels) == ["0.5", "1", "1.0"]
    collect(open_source(cohorts), tmp_path / "out" / "grid.h5")
    for source in (cohorts, tmp_path / "out" / "grid.h5"):
        for value in ("1", "1.0"):
            rows = list(csv.DictReader(io.StringIO(table(source, "--where", f"cohort={value}", "--format", "csv"))))
            assert len(rows) == 1
        found = {repr(settings["cohort"]) for settings in open_source(source).settings}
        assert found == {"1", "0.5", "1.0"}
        assert ppfl("table", source, "--where", "cohort=true").exit_code == 2


def test_one_asks_for_one_point_zero_where_only_fractions_are_meant(config: Path, tmp_path: Path) -> None:
    assert len(table(tmp_path, "--where", "zeta=10").splitlines()) == len(
        table(tmp_path, "--where", "zeta=1e1").splitlines()
    )


def test_texts_are_no_formulas_no_commands_and_no_lines(make_result: MakeResult, tmp_path: Path) -> None:
    values = ["=cmd()", "+1", "-x", "@a", r"\input{x}", "[5mm]", "a|b`<b>", "two\nlines", "\x1b[31m", -1.5]
    for number, value in enumerate(values):
        make_result(f"{number}", {"name": "one", "what": value}, {"loss": [1.0]})
    cells = {row["what"] for row in csv.DictReader(io.StringIO(table(tmp_path, "--format", "csv")))}
    assert {"'=cmd()", "'+1", "'-x", "'@a", "-1.5", "two\nlines"} <= cells
    latex = table(tmp_path, "--format", "latex")
    assert r"\textbackslash{}input\{x\}" in latex
    assert "{}[5mm]" in latex
    assert r"a\|b\`&lt;b>" in table(tmp_path, "--format", "markdown")
    text = table(tmp_path)
    assert len(text.splitlines()) == 1 + len(values)
    assert r"two\nlines" in text
    assert r"\x1b[31m" in text


def test_a_key_that_other_methods_have_elsewhere_is_told_apart(make_result: MakeResult, tmp_path: Path) -> None:
    own = {"name": "fedavg", "lr": 0.5}
    tuned = [{"name": "ffgg", "lr": 0.5, "fine_tuner": {"name": "sgd", "lr": lr}} for lr in (0.1, 0.2)]
    for number, algorithm in enumerate([own, *tuned]):
        make_result(f"{number}", {"name": "one", "algorithm": algorithm}, {"loss": [1.0]})
    header = table(tmp_path, "--format", "csv").splitlines()[0].split(",")
    assert "fine_tuner_lr" in header
    assert "lr" not in header, "FedAvg has one, and no fine-tuner"
