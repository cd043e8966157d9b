"""docs/systems.md: its tables are those of configs/systems as it is."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ppfl.analysis.systems.numbers import fill, fingerprint, fingerprints
from ppfl.analysis.systems.runs import STUDIES, configs_of

ROOT = Path(__file__).parent.parent
SYSTEMS = ROOT / "configs" / "systems"
PAGE = ROOT / "docs" / "systems.md"
PARTS = [path for study in STUDIES for path in configs_of(study, SYSTEMS)]
OF_PPFL_DATA = ("mnist20_train.h5", "floral_data:mnist", "shakespeare40_train.h5")
STALE = "run `make systems` and `python -m ppfl.analysis.systems.numbers`"


@cache
def stored() -> dict[str, Any]:
    """Return what the page was written from."""
    path = PAGE.with_suffix(".json")
    assert path.is_file(), f"{path.relative_to(ROOT)} is missing: {STALE}"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_every_configuration_belongs_to_a_study() -> None:
    assert sorted(PARTS) == sorted(SYSTEMS.glob("*.yaml"))
    assert {path.stem.partition("-")[0] for path in PARTS} == set(STUDIES)


def test_the_page_is_what_its_numbers_say() -> None:
    page, told = PAGE.read_text(encoding="utf-8"), stored()
    assert list(told["claims"]) == list(STUDIES)
    assert all(told["claims"].values())
    assert fill(page, told) == page, f"docs/systems.md was not written from docs/systems.json: {STALE}"


def test_the_page_is_about_every_configuration() -> None:
    assert set(stored()["experiments"]) == {path.stem for path in PARTS}, f"docs/systems.json is stale: {STALE}"


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_numbers_are_those_of_the_configuration_as_it_is(path: Path) -> None:
    if any(data in path.read_text(encoding="utf-8") for data in OF_PPFL_DATA) and "PPFL_DATA" not in os.environ:
        pytest.skip(f"{path.name} NOT TESTED: set PPFL_DATA to the folder of mnist20")
    assert stored()["experiments"].get(path.stem) == fingerprint(path), f"{path.name} was changed: {STALE}"


def test_a_fingerprint_tells_which_runs_are_meant(tmp_path: Path) -> None:
    sections = "rounds: 2\nproblem: {name: quadratic, generator: comparison}\n"
    text = sections + "algorithm: {name: fedsim, lr: %s, local_steps: 1}\n"
    found = []
    for lr, name, note in ((0.1, "a", ""), (0.1, "a", "# a note\n"), (0.2, "a", "")):
        (tmp_path / "floral-part.yaml").write_text(f"{note}name: {name}\n" + text % lr)
        (tmp_path / "workflow.yaml").write_text("systems: {}\n")
        found.append(fingerprints(tmp_path))
    assert found[0] == found[1] != found[2]
    assert list(found[0]) == ["floral-part"]
