"""The study of pruning over wireless, on a few short runs of its own configurations, with digits for mnist20."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ppfl.analysis.systems import wireless
from ppfl.analysis.systems.runs import configs_of
from ppfl.analysis.systems.study import Study
from tests.studies import runs_of

FOLDER = Path(__file__).parents[1] / "configs" / "systems"
DIGITS: dict[str, Any] = {
    "name": "digits",
    "partition": {"name": "label_quantity", "clients": 5, "labels_per_client": 2},
}


def documents() -> dict[str, dict[str, Any]]:
    return {stem: yaml.safe_load((FOLDER / f"{stem}.yaml").read_text(encoding="utf-8")) for stem in wireless.CONFIGS}


def test_its_configurations_are_found_and_have_three_seeds() -> None:
    assert {path.stem for path in configs_of("wireless", FOLDER)} == set(wireless.CONFIGS)
    assert all(len(document["grid"]["seed"]) >= 3 for document in documents().values())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return what short runs come to."""
    found = {}
    for stem, document in documents().items():
        short = {**document, "rounds": 2, "evaluate": {**document["evaluate"], "every": 1}}
        short["grid"] = {**document["grid"], "seed": [0]}
        if stem == wireless.MNIST:
            short["problem"] = {**document["problem"], "dataset": DIGITS, "model": {"name": "mlp", "hidden": [4]}}
            short["network"] = {**document["network"], "bandwidth_hz": 5e3}
        found[stem] = short
    return wireless.study(runs_of(found, tmp_path_factory.mktemp("wireless")))


def test_what_follows_from_definitions_holds_in_short_runs_too(found: Study) -> None:
    holds = {claim.text: claim.holds for claim in found.claims}
    assert holds["No client is later than the target."]
    assert holds["The best bandwidth never prunes more than an equal one."]


def test_a_claim_that_fails_is_told_as_such(found: Study) -> None:
    """Nobody has learned anything in two rounds."""
    (failed,) = [claim for claim in found.claims if claim.text.startswith("On permuted labels pruning costs")]
    assert not failed.holds


def test_words_and_pictures_are_saved(found: Study, tmp_path: Path) -> None:
    found.save(tmp_path / "wireless.json")
    names = {path.name for path in tmp_path.iterdir()}
    stems = {f"{picture.stem}.{suffix}" for picture in found.figures for suffix in ("svg", "png")}
    assert names == {"wireless.json", *stems}
    assert all(claim.distance and claim.found and claim.source for claim in found.claims)
