"""The study of backdoors, on short runs of its own configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ppfl.analysis.systems import backdoor
from ppfl.analysis.systems.runs import configs_of
from tests.studies import runs_of

FOLDER = Path(__file__).parents[1] / "configs" / "systems"


def test_words_and_pictures_are_saved_and_a_claim_that_fails_is_told(tmp_path: Path) -> None:
    """Nobody has learned anything in one round."""
    (path,) = configs_of("backdoor", FOLDER)
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert len(document["grid"]["seed"]) >= 3
    problem = {**document["problem"], "model": {"name": "mlp", "hidden": [4]}}
    short = {**document, "rounds": 1, "problem": problem, "grid": {**document["grid"], "seed": [0]}}
    (tmp_path / "runs").mkdir()
    found = backdoor.study(runs_of({backdoor.CONFIG: short}, tmp_path / "runs"))
    holds = {claim.text: claim.holds for claim in found.claims}
    assert not holds["Under the mean a trigger of few clients gets into the model that all share."]
    assert all(claim.distance and claim.found and claim.source for claim in found.claims)
    (tmp_path / "words").mkdir()
    found.save(tmp_path / "words" / "backdoor.json")
    stems = {f"{picture.stem}.{suffix}" for picture in found.figures for suffix in ("svg", "png")}
    assert {one.name for one in (tmp_path / "words").iterdir()} == {"backdoor.json", *stems}


pytestmark = pytest.mark.slow
