"""The study of merchants, on short runs of its own configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ppfl.analysis.systems import merchants
from ppfl.analysis.systems.runs import Run, configs_of
from ppfl.analysis.systems.study import Study
from ppfl.core.errors import UserError
from ppfl.diagnose.command import plan
from ppfl.diagnose.command import run as diagnose
from ppfl.runs.progress import Silent
from tests.studies import runs_of

FOLDER = Path(__file__).parents[1] / "configs" / "systems"
SMALL = {"name": "merchants", "clients": 3, "categories": 5, "brands": 6, "sizes": 2, "products": 1, "baskets": 10}
STEMS = ("merchants-homogeneous", "merchants-heterogeneous")
"""Roles of plays are as homogeneous merchants, with other data."""
SETS = {"–", "E", "B", "D", "E+B", "E+D", "B+D", "E+B+D"}


def document_of(stem: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{stem}.yaml").read_text(encoding="utf-8"))
    return found


def shortened(stem: str) -> dict[str, Any]:
    """Return a configuration with one seed, two rounds and three merchants."""
    document = document_of(stem)
    own = document["problem"]["dataset"].get("own", 0.0)
    model = {**document["problem"]["model"], "width": 4, "feed_forward": 4}
    problem = {**document["problem"], "dataset": {**SMALL, "own": own}, "model": model}
    evaluate = {**document["evaluate"], "every": 2}
    grid = {**document["grid"], "seed": [0]}
    return {**document, "rounds": 2, "problem": problem, "evaluate": evaluate, "grid": grid}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    folder = tmp_path_factory.mktemp("merchants")
    return runs_of({stem: shortened(stem) for stem in STEMS}, folder)


@pytest.fixture(scope="module")
def found(runs: dict[str, list[Run]]) -> Study:
    """Return what short runs come to, all of which were diagnosed."""
    for run in (one for of_stem in runs.values() for one in of_stem):
        if merchants.is_diagnosed(run.config):
            diagnose(plan(run.result.path, (), None), merchants.diagnosis_path(run.result.path), Silent())
    return merchants.study(runs)


def test_its_configurations_are_found_and_have_three_seeds() -> None:
    assert {path.stem for path in configs_of("merchants", FOLDER)} == set(merchants.HEAD)
    assert all(len(document_of(stem)["grid"]["seed"]) >= 3 for stem in merchants.HEAD)


@pytest.mark.slow
def test_every_share_set_is_there(runs: dict[str, list[Run]]) -> None:
    for stem, of_stem in runs.items():
        sets = {merchants.share_set(run.config) for run in of_stem if run.config.algorithm.name == "fedsim"}
        assert sets == SETS | ({merchants.UNION} if stem == "merchants-heterogeneous" else set())


@pytest.mark.slow
def test_who_was_not_diagnosed_is_told(runs: dict[str, list[Run]], tmp_path: Path) -> None:
    sweep = merchants.Sweep("merchants-homogeneous", runs["merchants-homogeneous"])
    run = sweep.sets["E"][0]
    assert merchants.is_diagnosed(run.config)
    with pytest.raises(UserError, match=r"no such file; `ppfl diagnose r\.h5 --json r\.rho\.json` writes it"):
        merchants._rho(tmp_path / "r.h5")


@pytest.mark.slow
def test_every_claim_is_there_and_told_with_numbers(found: Study, tmp_path: Path) -> None:
    assert len(found.claims) == 5 * len(STEMS)
    derived = [claim for claim in found.claims if claim.source == "derived"]
    assert len(derived) == 3 * len(STEMS)
    assert all(claim.holds for claim in derived)
    assert all(claim.distance and claim.found and claim.source for claim in found.claims)
    found.save(tmp_path / "merchants.json")
    stems = {f"{picture.stem}.{suffix}" for picture in found.figures for suffix in ("svg", "png")}
    assert {path.name for path in tmp_path.iterdir()} == {"merchants.json", *stems}
