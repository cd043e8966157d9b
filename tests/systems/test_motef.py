"""The study of MoTEF, on a few short runs of its own configurations, with breast_cancer for a9a."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppfl.analysis.systems import motef
from ppfl.analysis.systems.runs import configs_of
from ppfl.analysis.systems.study import Study
from tests.studies import runs_of

FOLDER = Path(__file__).parents[2] / "configs" / "systems"
ROUNDS = {motef.QUADRATIC: 40, motef.NOISE: 4, motef.SORTED: 6, motef.A9A: 3, motef.LOCAL: 2}
SAMPLES: dict[str, Any] = {
    "name": "breast_cancer", "partition": {"name": "sorted", "clients": 20}, "test": 0.0, "validation": 0.0,
}  # fmt: skip


def documents() -> dict[str, dict[str, Any]]:
    return {stem: yaml.safe_load((FOLDER / f"{stem}.yaml").read_text(encoding="utf-8")) for stem in motef.CONFIGS}


def shortened(stem: str, document: dict[str, Any]) -> dict[str, Any]:
    # aliases are the same objects
    short: dict[str, Any] = copy.deepcopy({**document, "rounds": ROUNDS[stem]})
    short["evaluate"]["every"] = 1
    if stem == motef.SORTED:
        # one seed of batches
        short["grid"]["cases"] = [case for case in short["grid"]["cases"] if case.get("seed", 0) == 0]
    else:
        short["grid"]["seed"] = [0]
    if stem == motef.A9A:
        short["problem"]["dataset"] = SAMPLES
    if stem == motef.LOCAL:
        short["problem"]["model"]["hidden"] = [4]
        for case in short["grid"]["cases"]:
            for key in ("rounds", "evaluate.every"):
                case.pop(key, None)
    return short


def test_its_configurations_are_found_and_have_three_seeds() -> None:
    assert {path.stem for path in configs_of("motef", FOLDER)} == set(motef.CONFIGS)
    for stem, document in documents().items():
        grid = document["grid"]
        seeds = grid.get("seed", sorted({case["seed"] for case in grid.get("cases", []) if "seed" in case}))
        assert len(seeds) >= 3, stem


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return what short runs come to."""
    short = {stem: shortened(stem, document) for stem, document in documents().items()}
    return motef.study(runs_of(short, tmp_path_factory.mktemp("motef")))


def test_what_follows_from_definitions_holds_in_short_runs_too(found: Study) -> None:
    (scaled,) = [claim for claim in found.claims if claim.text.startswith("DSGD and Choco-SGD stop")]
    assert scaled.holds, scaled.found


def test_a_claim_that_fails_is_told_as_such(found: Study) -> None:
    """Nobody is at 0 after so few rounds."""
    (failed,) = [claim for claim in found.claims if claim.text.startswith("Without noise all that track")]
    assert not failed.holds


def test_words_and_pictures_are_saved(found: Study, tmp_path: Path) -> None:
    found.save(tmp_path / "motef.json")
    names = {path.name for path in tmp_path.iterdir()}
    stems = {f"{picture.stem}.{suffix}" for picture in found.figures for suffix in ("svg", "png")}
    assert names == {"motef.json", *stems}
    assert all(claim.distance and claim.found and claim.source for claim in found.claims)
