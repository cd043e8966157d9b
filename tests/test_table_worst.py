"""`ppfl table --worst`: the worst value of a dimension, by its mean over seeds, and which one it was."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from ppfl.analysis.collect import collect
from ppfl.analysis.sources import open_source
from tests.conftest import MakeResult
from tests.grids import ppfl

ATTACKS: dict[str, dict[str, Any]] = {
    "flip": {"name": "sign_flip", "factor": 2.0},
    "hide": {"name": "min_max", "direction": "std"},
}
LOSSES = {
    # one seed of flip is the worst of all, but its mean is not
    ("median", "flip"): [0.1, 0.9],
    ("median", "hide"): [0.5, 0.75],
    ("krum", "flip"): [0.5, 0.4],
    ("krum", "hide"): [0.1, 0.2],
}


@pytest.fixture
def results(make_result: MakeResult, tmp_path: Path) -> Path:
    for (rule, attack), losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            write(make_result, rule, attack, seed, loss)
    return tmp_path


def write(make_result: MakeResult, rule: str, attack: str, seed: int, loss: float, status: str = "complete") -> None:
    settings = {
        "name": "one", "seed": seed, "aggregator": {"name": rule}, "byzantine": {"attack": ATTACKS[attack]},
    }  # fmt: skip
    # accuracies 1 − loss are worst where losses are
    make_result(
        f"{rule}-{attack}-{seed}", settings, {"loss": [1.0, loss], "test_hit_rate": [0.0, 1 - loss]}, status=status
    )


def table(source: Path, *arguments: str | Path) -> str:
    done = ppfl("table", source, "--worst", *arguments)
    assert done.exit_code == 0, done.stderr
    return str(done.stdout)


TEXT = """\
name    status      loss, worst attack
krum    4 complete  0.45 [0.4, 0.5] (sign_flip)
median  4 complete  0.625 [0.5, 0.75] (min_max)
"""
CSV = """\
name,status,loss,loss min,loss max,loss runs,loss worst attack,loss diverged
krum,4 complete,0.45,0.4,0.5,2,sign_flip,0
median,4 complete,0.625,0.5,0.75,2,min_max,0
"""
MARKDOWN = """\
| name | status | loss, worst attack |
| --- | --- | --- |
| krum | 4 complete | 0.45 [0.4, 0.5] (sign_flip) |
| median | 4 complete | 0.625 [0.5, 0.75] (min_max) |
"""
LATEX = r"""\begin{tabular}{lll}
\hline
name & status & loss, worst attack \\
\hline
krum & 4 complete & 0.45 [0.4, 0.5] (sign\_flip) \\
median & 4 complete & 0.625 [0.5, 0.75] (min\_max) \\
\hline
\end{tabular}
"""


def test_the_mean_over_seeds_comes_first_in_all_formats(results: Path, tmp_path: Path) -> None:
    for name, text in {"text": TEXT, "csv": CSV, "markdown": MARKDOWN, "latex": LATEX}.items():
        assert table(results, "attack", "--metric", "loss", "--at", "last", "--format", name) == text
    collect(open_source(results), tmp_path / "out" / "grid.h5")
    for key in ("attack", "byzantine.attack", "attack.name", "byzantine"):
        found = table(tmp_path / "out" / "grid.h5", key, "--metric", "loss", "--at", "last")
        assert found == TEXT.replace("worst attack", f"worst {key}")


def test_the_worst_is_the_lowest_where_larger_is_better(results: Path) -> None:
    (krum, median) = table(results, "attack", "--metric", "test_hit_rate", "--at", "last").splitlines()[1:]
    assert krum.endswith("0.55 [0.5, 0.6] (sign_flip)")
    assert median.endswith("0.375 [0.25, 0.5] (min_max)")
    # over the start, too, where all are equally bad
    (krum, _) = table(results, "attack", "--metric", "test_hit_rate", "--at", "0").splitlines()[1:]
    assert krum.endswith("0 [0, 0] (min_max, sign_flip)")


def test_any_dimension_and_each_seed(results: Path) -> None:
    rows = table(results, "aggregator", "--metric", "loss", "--at", "last", "--format", "csv").splitlines()
    assert [row.rsplit(",", 2)[1] for row in rows[1:]] == ["median", "median"]
    text = table(results, "attack", "--seeds", "--metric", "loss", "--at", "last", "--format", "csv")
    found = [(row["name"], row["seed"], row["loss worst attack"]) for row in csv.DictReader(io.StringIO(text))]
    assert found == [
        ("krum", "0", "sign_flip"), ("krum", "1", "sign_flip"),
        ("median", "0", "min_max"), ("median", "1", "sign_flip"),
    ]  # fmt: skip


def test_a_value_that_its_plug_in_does_not_tell_is_called_by_its_key(make_result: MakeResult, tmp_path: Path) -> None:
    for factor, loss in ((2.0, 0.1), ("optimal", 0.3)):
        attack = {"name": "sign_flip", "factor": factor}
        make_result(f"flip-{factor}", {"name": "one", "byzantine": {"attack": attack}}, {"loss": [1.0, loss]})
    make_result("none", {"name": "one"}, {"loss": [1.0, 0.2]})
    for key, worst in {"byzantine": "factor=optimal", "attack.factor": "optimal"}.items():
        assert table(tmp_path, key, "--metric", "loss", "--at", "last").splitlines()[-1].endswith(f"0.3 ({worst})")


def test_runs_that_diverged_are_the_worst_and_are_told(make_result: MakeResult, results: Path) -> None:
    write(make_result, "krum", "hide", 1, 1e-9, status="diverged")
    done = ppfl("table", results, "--worst", "attack", "--metric", "loss", "--at", "last")
    (krum, median) = done.stdout.splitlines()[1:]
    assert krum.split(maxsplit=1)[1] == "3 complete, 1 diverged  diverged, 1 of 2 (min_max)"
    assert median.endswith("0.625 [0.5, 0.75] (min_max)")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "ppfl: --worst attack: the worst of 2 values (min_max, sign_flip) by their means over seeds; "
    )
    assert line.endswith("; a value with diverged runs is worse than any without")
    (row, _) = csv.DictReader(
        io.StringIO(table(results, "attack", "--metric", "loss", "--at", "last", "--format", "csv"))
    )
    assert (row["loss"], row["loss runs"], row["loss diverged"], row["loss worst attack"]) == (
        "0.1",
        "1",
        "1",
        "min_max",
    )
    for seed in (0, 1):
        write(make_result, "krum", "flip", seed, 1.0, status="diverged")
    assert table(results, "attack", "--metric", "loss").splitlines()[1].endswith("diverged, 2 of 2 (sign_flip)")
    write(make_result, "krum", "hide", 0, 1.0, status="diverged")
    assert table(results, "attack", "--metric", "loss").splitlines()[1].endswith("2 of 2 (min_max, sign_flip)")


def test_of_values_with_diverged_runs_the_larger_part_counts(make_result: MakeResult, tmp_path: Path) -> None:
    for seed in range(4):
        write(make_result, "krum", "flip", seed, 0.5, status="diverged" if seed < 2 else "complete")
    write(make_result, "krum", "hide", 0, 0.5, status="diverged")
    assert table(tmp_path, "attack", "--metric", "loss", "--at", "last").endswith(" diverged, 1 of 1 (min_max)\n")


def test_a_key_that_another_one_begins_with_is_itself_alone(make_result: MakeResult, tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        for schedule in ("linear", "cosine"):
            settings = {"name": "one", "server_optimizer": {"lr": lr, "lr_schedule": schedule}}
            make_result(f"{lr}-{schedule}", settings, {"loss": [1.0, lr]})
    rows = table(tmp_path, "server_optimizer.lr", "--metric", "loss", "--at", "last").splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["cosine", "linear"]


def test_runs_without_a_result_do_not_count_and_are_told(make_result: MakeResult, results: Path) -> None:
    for seed in (0, 1):
        write(make_result, "krum", "flip", seed, 1.0, status="running")
    done = ppfl("table", results, "--worst", "attack", "--metric", "loss", "--at", "last")
    assert done.stdout.splitlines()[1].endswith("0.15 [0.1, 0.2] (min_max)")
    assert "runs without a result do not count, and the worst may be among them: 2 of sign_flip" in done.stderr
    for seed in (0, 1):
        write(make_result, "krum", "hide", seed, 1.0, status="running")
    assert table(results, "attack", "--metric", "loss", "--at", "last").splitlines()[1].endswith(" –")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--worst", "atack"], "--worst atack: no such key; allowed: aggregator.name, byzantine.attack.name, "),
        (["--worst", "name"], "--worst name: fits several keys; allowed: aggregator.name, byzantine.attack.name"),
        (["--worst", "seed"], "--worst seed: no such key; allowed: aggregator.name"),
        (["--worst", ""], "--worst : no such key; allowed: "),
        (
            ["--worst", "attack", "--where", "aggregator.name=krum", "--where", "attack.name=min_max"],
            "--worst attack: nothing varies between these runs but seeds",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(results: Path, arguments: list[str], words: str) -> None:
    done = ppfl("table", results, *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"ppfl: error: {words}")
    assert len(done.stderr.splitlines()) == 1
