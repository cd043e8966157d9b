"""The workflow of the systems, from configurations to the report, on a tiny study; and what docs/systems.md is written
from."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ppfl.analysis.systems.numbers import fill, fingerprints, main
from ppfl.config.grid import load_cells

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "test" / "systems"
TINY = CONFIGS / "workflow.yaml"
PARTS = ("incentives", "incentives-personalized")

pytestmark = pytest.mark.workflow


def snakemake(folder: Path, *arguments: str, configuration: Path = TINY) -> subprocess.CompletedProcess[str]:
    project = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--configfile", str(configuration)]
    command = [sys.executable, "-m", "snakemake", *project, "--cores", "2", *arguments]
    environment = os.environ | {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("systems")
    done = snakemake(folder, "systems")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results" / "systems"


def words(finished: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = json.loads((finished / "figures" / "incentives.json").read_text("utf-8"))
    return found


def test_every_run_of_every_configuration_was_computed(finished: Path) -> None:
    for part in PARTS:
        assert {path.stem for path in (finished / part).glob("*.h5")} == set(load_cells(CONFIGS / f"{part}.yaml"))


def test_the_report_has_claims_and_figures_and_loads_nothing(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    told, text = words(finished), unescape(page)
    assert re.findall(r'<section id="(\w+)">', page) == ["incentives"]
    assert len(told["claims"]) > 5
    for claim in told["claims"]:
        held = "yes" if claim["holds"] else "no"
        cells = [claim[key] for key in ("text", "source", "wanted", "found", "distance")]
        assert "".join(f"<td>{cell}</td>" for cell in (*cells, held)) in text
    assert {claim["holds"] for claim in told["claims"]} == {True, False}
    assert len(told["figures"]) == page.count("data:image/svg+xml;base64,") == 2
    for figure in told["figures"]:
        assert f"<figcaption>{figure['caption']}</figcaption>" in text
        assert (finished / "figures" / f"{figure['stem']}.png").read_bytes().startswith(b"\x89PNG")
    for part in PARTS:
        assert (CONFIGS / f"{part}.yaml").read_text(encoding="utf-8") in text
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:|//)|@import|url\(|<script", page)


def test_a_second_call_has_nothing_to_do(finished: Path) -> None:
    done = snakemake(finished.parents[1], "--dry-run", "systems")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_folder_without_studies_is_told(tmp_path: Path) -> None:
    configuration = tmp_path / "workflow.yaml"
    text = TINY.read_text(encoding="utf-8")
    configuration.write_text(text.replace("configs/test/systems", "configs/nothing"), encoding="utf-8")
    done = snakemake(tmp_path, "--dry-run", "systems", configuration=configuration)
    assert done.returncode != 0
    assert "configs/nothing: there is no configuration of incentives, floral" in done.stdout + done.stderr


def written(page: Path, figures: Path) -> Result:
    """Do what docs/systems.md says, for the tiny study."""
    arguments = ["--configs", str(CONFIGS), "--figures", str(figures), "--page", str(page)]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_a_page_is_written_from_the_results(finished: Path, tmp_path: Path) -> None:
    """What it was written from lies beside it."""
    page, block = tmp_path / "page.md", "<!-- numbers: incentives -->\n%s<!-- end of numbers -->\n"
    page.write_text("Before.\n" + block % "stale\n" + "After 0.1.\n", encoding="utf-8")
    done = written(page, finished / "figures")
    assert done.exit_code == 0, done.output
    text, told = page.read_text(encoding="utf-8"), json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert told == {"experiments": fingerprints(CONFIGS), "claims": {"incentives": words(finished)["claims"]}}
    assert set(told["experiments"]) == set(PARTS)
    assert fill(text, told) == text
    assert text.startswith("Before.\n<!-- numbers: incentives -->\n\n| claim | source |")
    assert text.endswith("\n\n<!-- end of numbers -->\nAfter 0.1.\n")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[-1] for row in rows] == [
        "yes |" if claim["holds"] else "**no** |" for claim in words(finished)["claims"]
    ]
    assert all(len(row) == 6 for row in rows)


@pytest.mark.parametrize("blocks", [[], ["floral"], ["incentives", "incentives"], ["incentives", "floral"]])
def test_a_page_needs_one_place_for_each_study(finished: Path, tmp_path: Path, blocks: list[str]) -> None:
    page = tmp_path / "page.md"
    before = "".join(f"<!-- numbers: {name} -->\n<!-- end of numbers -->\n" for name in blocks)
    page.write_text(before, encoding="utf-8")
    done = written(page, finished / "figures")
    assert done.exit_code == 1
    assert done.output == (
        f"Error: the page needs one pair of markers for each of incentives; there are {', '.join(blocks) or 'none'}\n"
    )
    assert page.read_text(encoding="utf-8") == before
    assert not page.with_suffix(".json").exists()


def test_words_that_are_missing_are_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shutil.copyfile(ROOT / "docs" / "systems.md", page)
    done = written(page, tmp_path)
    assert done.exit_code == 1
    assert done.output == f"Error: {tmp_path / 'incentives.json'}: no such file; `make systems` writes it\n"
    assert page.read_bytes() == (ROOT / "docs" / "systems.md").read_bytes()
