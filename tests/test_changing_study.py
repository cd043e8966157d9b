"""The study of data that change: its runs, tiny, come to claims and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppfl.analysis.systems.changing import Found, study
from ppfl.analysis.systems.runs import configs_of
from tests.studies import runs_of

FOLDER = Path(__file__).parents[1] / "configs" / "systems"


def document() -> dict[str, Any]:
    """Return the configuration with one seed, two clients and two rounds a phase."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "changing.yaml").read_text(encoding="utf-8"))
    found["rounds"], found["evaluate"]["every"] = 10, 2
    found["problem"]["phases"]["rounds"] = 2
    found["problem"]["dataset"] |= {"test": 0.8, "partition": {"name": "iid", "clients": 2}}
    found["grid"]["seed"] = [0]
    return found


@pytest.mark.slow
def test_a_tiny_version_comes_to_claims_and_pictures(tmp_path: Path) -> None:
    assert [path.stem for path in configs_of("changing", FOLDER)] == ["changing"]
    found = study(runs_of({"changing": document()}, tmp_path))
    found.save(tmp_path / "words" / "changing.json")
    assert len(found.claims) == 9
    # that replay helps shows in so few rounds already
    assert [claim.holds for claim in found.claims[:2]] == [True, True]
    assert {path.suffix for path in (tmp_path / "words").iterdir()} == {".json", ".svg", ".png"}


def test_forgetting_is_from_the_best_that_was() -> None:
    of_phases = np.array([[[0.9, 1.0, 0.25], [0.0, 0.5, 0.75], [0.0, 0.0, 1.0]]])
    found = Found(np.array([2 / 3]), of_phases, np.array([[0.9, 0.75, 2 / 3]]))
    np.testing.assert_allclose(found.forgetting, [(0.75 + 0.0) / 2])
    assert found.newest.tolist() == [1.0]
