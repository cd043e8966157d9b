"""The study of FLoRAL, on short runs of its own configurations."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppfl.analysis.systems import floral
from ppfl.analysis.systems.runs import configs_of
from ppfl.analysis.systems.study import Study
from tests.studies import runs_of

FOLDER = Path(__file__).parents[1] / "configs" / "systems"
ROUNDS = {"floral-linear": 20, "floral-digits": 2, "floral-mnist20": 1}


def document_of(stem: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{stem}.yaml").read_text(encoding="utf-8"))
    return found


def shortened(stem: str) -> dict[str, Any]:
    """Return a configuration with one seed and few rounds; digits in the place of images that may not be here."""
    document = document_of(stem) | {"rounds": ROUNDS[stem]}
    grid = {"cases": document["grid"]["cases"], "seed": [0]}
    if stem == "floral-mnist20":
        kept = {"shift": document["problem"]["dataset"]["shift"]}
        document["problem"]["dataset"] = {"name": "digits", "partition": {"name": "iid", "clients": 20}, **kept}
    return {**document, "grid": grid, "evaluate": {**document["evaluate"], "every": ROUNDS[stem]}}


def test_its_configurations_are_found_and_have_three_seeds() -> None:
    assert {path.stem for path in configs_of("floral", FOLDER)} == set(floral.CONFIGS)
    for stem in floral.CONFIGS:
        grid = document_of(stem)["grid"]
        assert len(grid["zip"][0]["seed"] if "zip" in grid else grid["seed"]) >= 3


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return what short runs come to."""
    folder = tmp_path_factory.mktemp("floral")
    shutil.copy(FOLDER / "floral_data.py", folder)
    return floral.study(runs_of({stem: shortened(stem) for stem in floral.CONFIGS}, folder))


def test_every_claim_is_there_and_told_with_numbers(found: Study, tmp_path: Path) -> None:
    """A few rounds are too few for any of the clusters to be found, and that is what it says."""
    assert len(found.claims) == 3 + 2 * 4
    assert not any(claim.holds for claim in found.claims if claim.text.endswith("who is alike"))
    assert all(claim.distance and claim.found and claim.source for claim in found.claims)
    assert "93.1 and 70.8" in found.reading
    found.save(tmp_path / "floral.json")
    stems = {f"{picture.stem}.{suffix}" for picture in found.figures for suffix in ("svg", "png")}
    assert {path.name for path in tmp_path.iterdir()} == {"floral.json", *stems}


def test_the_linear_task_is_that_of_the_source() -> None:
    """y = W_c x + b without noise, W_c and W_c' of clusters apart by a matrix of rank 2."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("floral_data", FOLDER / "floral_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clients, maps = module.linear(seed=3), []
    assert len(clients) == 10
    for client in clients:
        assert client["train"][0].shape == (6, 10)
        assert client["train"][1].shape == (6, 3)
        x, y = (np.concatenate([client["train"][part], client["test"][part]]) for part in (0, 1))
        solved, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)
        np.testing.assert_allclose(np.column_stack([x, np.ones(len(x))]) @ solved, y, atol=1e-10)
        maps.append(solved)
    for m, one in enumerate(maps):
        np.testing.assert_allclose(one, maps[m % 2], atol=1e-9)
        np.testing.assert_allclose(one[-1], maps[0][-1], atol=1e-9)
    assert np.linalg.matrix_rank(maps[0] - maps[1], tol=1e-8) == 2
