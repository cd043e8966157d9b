"""The README's commands, followed literally; the documentation of configurations is complete."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ppfl.config.run

ROOT = Path(__file__).parent.parent.parent
TESTED_BLOCK = re.compile(r"<!-- tested -->\n```console\n(.*?)```", re.DOTALL)


def commands_of(document: Path) -> list[str]:
    blocks = TESTED_BLOCK.findall(document.read_text(encoding="utf-8"))
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what the commands need, with an environment to activate that is the one of the tests."""
    for name in ("configs", "workflow", "profiles", "slurm"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f'export PATH="{Path(sys.executable).parent}:$PATH"\n')
    return tmp_path


@pytest.mark.workflow
def test_commands_of_the_readme_work(checkout: Path) -> None:
    commands = commands_of(ROOT / "README.md")
    assert len(commands) >= 8
    script = "\n".join(["set -eo pipefail", *commands])
    done = subprocess.run(["bash", "-c", script], cwd=checkout, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (checkout / "digits-2-ranks.h5").exists()


@pytest.mark.workflow
def test_commands_of_the_chapter_on_results_work(checkout: Path) -> None:
    commands = commands_of(ROOT / "docs" / "results.md")
    assert len(commands) >= 6
    script = "\n".join(["set -eo pipefail", "source .venv/bin/activate", *commands])
    done = subprocess.run(["bash", "-c", script], cwd=checkout, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("grid.h5", "grid.png", "table.csv", "bytes.svg", "worst.csv"):
        assert (checkout / name).exists(), name


@pytest.mark.workflow
def test_commands_of_the_chapter_on_pipelines_work(checkout: Path) -> None:
    commands = commands_of(ROOT / "docs" / "pipelines.md")
    assert len(commands) >= 6
    script = "\n".join(["set -eo pipefail", "source .venv/bin/activate", *commands])
    done = subprocess.run(["bash", "-c", script], cwd=checkout, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage, number in (("pretrain", 1), ("personalize", 4), ("finetune", 2)):
        assert len(list((checkout / "results" / f"pipeline_{stage}").glob("*.h5"))) == number


def test_targets_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\$ make (\S+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link


def test_the_configuration_in_the_readme_is_the_one_that_runs() -> None:
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert shown
    assert shown[1] in (ROOT / "configs" / "comparison.yaml").read_text(encoding="utf-8")


def field_names(node: Any) -> Iterator[str]:
    """Yield every key that a schema allows somewhere, and every name of a plug-in."""
    if isinstance(node, dict):
        yield from node.get("properties", {})
        yield from node.get("discriminator", {}).get("mapping", {})
        for value in node.values():
            yield from field_names(value)
    elif isinstance(node, list):
        for value in node:
            yield from field_names(value)


def test_every_field_and_method_is_explained() -> None:
    text = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    explained = {word for span in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", span)}
    names = set(field_names(ppfl.config.run.schema()))
    assert len(names) > 40
    missing = names - explained
    assert not missing, f"explain {', '.join(sorted(missing))} in configs/README.md"


def test_the_stored_schema_is_the_present_one() -> None:
    stored = json.loads((ROOT / "workflow" / "schemas" / "experiment.schema.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(ppfl.config.run.schema())), "generate it as CONTRIBUTING.md says"


PUBLISHED = {"femnist", "gldv2", "stackoverflow", "tiny"}
"""Folders of configurations whose data files are not there: test_published makes some up."""


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if not PUBLISHED & set(path.parts)],
    ids=lambda path: path.name,
)
def test_configurations_of_the_repository_are_valid(path: Path) -> None:
    if path.name == "workflow.yaml":
        return
    text = path.read_text(encoding="utf-8")
    needed = ("mnist20_train.h5", "floral_data:mnist", "shakespeare40_train.h5", "a9a.svm.gz")
    if any(data in text for data in needed) and "PPFL_DATA" not in os.environ:
        pytest.skip("PPFL_DATA is not set: the data are not there")
    from ppfl.config.grid import load_cells

    assert load_cells(path)
