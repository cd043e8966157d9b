"""The study of truthful collaboration, on a few short runs of its own configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ppfl.analysis.systems import incentives
from ppfl.analysis.systems.runs import configs_of
from ppfl.analysis.systems.study import Study
from tests.studies import runs_of

FOLDER = Path(__file__).parents[1] / "configs" / "systems"
SCALES = [0, 1, 2, 20]
SHORT: dict[str, dict[str, Any]] = {
    "incentives": {"grid": {"seed": [0], "strategic.scale": SCALES}, "rounds": 100},
    "incentives-personalized": {
        "grid": {"seed": [0], "problem.targets": ["own", "common"], "strategic.scale": [0, 1, 5]}, "rounds": 150,
    },
}  # fmt: skip


def test_its_configurations_are_found_and_have_three_seeds_and_counterparts() -> None:
    assert {path.stem for path in configs_of("incentives", FOLDER)} == set(incentives.CONFIGS)
    for stem in incentives.CONFIGS:
        document = yaml.safe_load((FOLDER / f"{stem}.yaml").read_text(encoding="utf-8"))
        assert len(document["grid"]["seed"]) >= 3
        assert 1 in document["grid"]["strategic.scale"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return what short runs come to."""
    whole = {stem: yaml.safe_load((FOLDER / f"{stem}.yaml").read_text(encoding="utf-8")) for stem in SHORT}
    short = {stem: {**document, **SHORT[stem]} for stem, document in whole.items()}
    return incentives.study(runs_of(short, tmp_path_factory.mktemp("incentives")))


def test_what_follows_from_definitions_holds_in_short_runs_too(found: Study) -> None:
    holds = {claim.text: claim.holds for claim in found.claims}
    assert holds["Payments of a round add up to 0."]
    assert holds["Over a ≥ 1 the gain of lying never rises with C."]
    assert holds["Without payments it pays to exaggerate as much as one can."]
    assert holds["Where it is not, lying gains."]


def test_a_claim_that_fails_is_told_as_such(found: Study) -> None:
    """Payments bring the motive of free riding back where the split had removed every one."""
    (failed,) = [claim for claim in found.claims if claim.text.startswith("With an overpersonalized split payments")]
    assert not failed.holds
    assert failed.found.startswith("0, gain ")
    assert failed.distance == "1"


def test_words_and_pictures_are_saved(found: Study, tmp_path: Path) -> None:
    found.save(tmp_path / "incentives.json")
    names = {path.name for path in tmp_path.iterdir()}
    stems = {f"{picture.stem}.{suffix}" for picture in found.figures for suffix in ("svg", "png")}
    assert names == {"incentives.json", *stems}
    assert all(claim.distance and claim.found and claim.source for claim in found.claims)
