"""The paper's workflow from its grids to the report, on tiny problems."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ppfl.analysis.paper.numbers import fill, fingerprints, main
from ppfl.config.grid import load_cells

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "configs" / "test" / "paper" / "workflow.yaml"
EXHIBITS = ("steps", "comparison", "asynchronous", "byzantine", "abstract")

pytestmark = pytest.mark.workflow


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    project = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--configfile", str(TINY)]
    command = [sys.executable, "-m", "snakemake", *project, "--cores", "2", *arguments]
    environment = os.environ | {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    done = snakemake(folder, "paper")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results" / "paper"


def test_the_report_has_every_figure_and_loads_nothing(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', page) == list(EXHIBITS)
    assert page.count("data:image/svg+xml;base64,") == len(EXHIBITS)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//)|@import|url\(", page)
    for name in EXHIBITS:
        assert (finished / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def words(finished: Path, name: str) -> list[dict[str, str]]:
    told = json.loads((finished / "figures" / f"{name}.json").read_text(encoding="utf-8"))
    assert told["predicted"]
    return [dict(zip(told["header"], row, strict=True)) for row in told["rows"]]


def test_numbers_say_how_far_runs_are_from_theory(finished: Path) -> None:
    exact = next(row for row in words(finished, "steps") if row["CG steps"] == "exact")
    assert exact["run / predicted"] == "1 ×"
    assert float(exact["largest distance"]) < 1e-8
    for row in words(finished, "abstract"):
        if row["trouble"] == "5 local steps":
            assert row["run / predicted"] == "1 ×"
    (mean,) = [row for row in words(finished, "byzantine") if row["rule"] == "mean" and "common" in row["targets"]]
    assert mean["run / predicted"] == "1 ×"
    synchronous = [row for row in words(finished, "asynchronous") if row["method"] == "synchronous"]
    assert [row["run / predicted"] for row in synchronous] == ["1 ×"] * 4
    assert [row["virtual seconds"] for row in synchronous] == ["20", "2e+03"] * 2


def test_methods_are_compared_on_seeds_that_they_were_not_tuned_on(finished: Path) -> None:
    tuned = load_cells(finished / "comparison.yaml")
    assert {cell.config.seed for cell in tuned.values()} == {0, 1}
    assert len(tuned) == 2 * 6
    assert len(list((finished / "comparison").glob("*.h5"))) == 2 * 6
    steps = {cell.config.model_dump()["algorithm"]["lr"] for cell in tuned.values()}
    assert steps <= {0.05, 0.2, 3.2}
    tuning = yaml.safe_load((TINY.parent / "tuning-zeta1.yaml").read_text(encoding="utf-8"))
    assert tuning["seed"] not in {0, 1}


def test_the_page_is_written_from_the_results(finished: Path, tmp_path: Path) -> None:
    """By the command that docs/paper.md names; what it was written from lies beside it."""
    page, configs = tmp_path / "paper.md", ROOT / "configs" / "test" / "paper"
    shutil.copyfile(ROOT / "docs" / "paper.md", page)
    arguments = ["--configs", str(configs), "--results", str(finished), "--page", str(page)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    text, told = page.read_text(encoding="utf-8"), json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert "Not written yet" not in text
    assert fill(text, told) == text
    assert told["experiments"] == fingerprints(configs)
    for row in words(finished, "abstract"):
        assert row["run / predicted"] in text
    other = CliRunner().invoke(main, [*arguments[:2], "--results", str(tmp_path), *arguments[4:]])
    assert other.exit_code == 1
    assert re.fullmatch(r"Error: .*comparison.yaml.*\n|Error: .*\.h5.*\n", other.output)


def test_a_second_call_has_nothing_to_do(finished: Path) -> None:
    done = snakemake(finished.parent.parent, "--dry-run", "paper")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


def test_the_paper_has_its_sizes_and_seeds() -> None:
    """What is committed for the paper, as opposed to the tiny one that the tests run."""
    folder = ROOT / "configs" / "paper"
    sizes = {"steps": (8, 100, 50), "abstract": (8, 100, 50), "asynchronous": (40, 400, 50), "byzantine": (32, 100, 50)}
    for name, expected in sizes.items():
        cells = [cell.config.model_dump() for cell in load_cells(folder / f"{name}.yaml").values()]
        problems = [cell["problem"] for cell in cells]
        assert {(p["clients"], p["shared_dimension"], p["local_dimension"]) for p in problems} == {expected}
        assert len({cell["seed"] for cell in cells}) >= 3
    shown = yaml.safe_load((ROOT / "configs" / "workflow.yaml").read_text(encoding="utf-8"))["paper"]["seeds"]
    tuned = [cell.config.seed for path in folder.glob("tuning-*.yaml") for cell in load_cells(path).values()]
    assert len(shown) >= 3
    assert not set(shown) & set(tuned)
