"""The study of compressed uplinks, on a few short runs of its own configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ppfl.analysis.systems import compressed
from ppfl.analysis.systems.runs import configs_of
from ppfl.analysis.systems.study import Study
from tests.studies import runs_of

FOLDER = Path(__file__).parents[1] / "configs" / "systems"


def documents() -> dict[str, dict[str, Any]]:
    return {stem: yaml.safe_load((FOLDER / f"{stem}.yaml").read_text(encoding="utf-8")) for stem in compressed.CONFIGS}


def test_its_configurations_are_found_and_compare_the_same() -> None:
    assert {path.stem for path in configs_of("compressed", FOLDER)} == set(compressed.CONFIGS)
    grids = [document["grid"] for document in documents().values()]
    assert all(grid == grids[0] and len(grid["seed"]) >= 3 for grid in grids)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return what short runs come to."""
    short = {
        stem: {
            **document,
            "rounds": 3,
            "problem": {**document["problem"], "model": {"name": "mlp", "hidden": [4]}},
            "evaluate": {**document["evaluate"], "every": 1},
            "grid": {**document["grid"], "seed": [0]},
        }
        for stem, document in documents().items()
    }
    return compressed.study(runs_of(short, tmp_path_factory.mktemp("compressed")))


def test_bytes_are_those_of_messages_in_short_runs_too(found: Study) -> None:
    (claim,) = [claim for claim in found.claims if claim.text.startswith("Messages are as long")]
    assert claim.holds
    assert "10 numbers for 10" in claim.found


def test_a_claim_that_fails_is_told_as_such(found: Study) -> None:
    """In three rounds a memory of a hundredth of the entries has sent nearly nothing."""
    failed = [claim.text for claim in found.claims if not claim.holds]
    assert failed
    assert all(claim.distance and claim.found and claim.source for claim in found.claims)


def test_words_and_pictures_are_saved(found: Study, tmp_path: Path) -> None:
    found.save(tmp_path / "compressed.json")
    names = {path.name for path in tmp_path.iterdir()}
    stems = {f"{picture.stem}.{suffix}" for picture in found.figures for suffix in ("svg", "png")}
    assert names == {"compressed.json", *stems}
