"""The study of who works with whom: its runs, tiny, come to claims and pictures; and its data are what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppfl.analysis.systems.collaborators import CONFIGS, study
from ppfl.analysis.systems.runs import Run, configs_of
from ppfl.config.grid import cells_of
from ppfl.results.reader import open_result
from ppfl.runs.experiment import run as run_experiment
from ppfl.runs.progress import Silent

FOLDER = Path(__file__).parents[1] / "configs" / "systems"
SAMPLES = {"name": "function", "from": "collaborators_digits:build", "validation": 0}


def document(name: str) -> dict[str, Any]:
    """Return a configuration with one seed, one λ and few rounds; digits in the place of mnist20, which may not be
    there."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    found["rounds"] = 2
    cases = found["grid"]["cases"]
    found["grid"]["cases"] = [case for case in cases if case["algorithm"].get("penalty", 0.5) == 0.5]
    if "zip" in found["grid"]:
        found["grid"]["zip"] = [{key: [values[0]] for key, values in found["grid"]["zip"][0].items()}]
    else:
        found["grid"]["seed"] = [0]
        found["problem"]["dataset"] = SAMPLES
        for case in found["grid"]["cases"]:
            case.pop("problem.dataset.shift", None)
            if names := case.pop("problem.dataset.clients.names", None):
                case["problem.dataset.arguments.group"] = int(names[0]) % 2
    return found


def module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.slow
def test_a_tiny_version_comes_to_claims_and_pictures(tmp_path: Path) -> None:
    assert {path.stem for path in configs_of("collaborators", FOLDER)} == set(CONFIGS)
    runs: dict[str, list[Run]] = {}
    for name in CONFIGS:
        for cell in cells_of(document(name), FOLDER, name).values():
            run_experiment(cell.config, tmp_path / f"{cell.config.digest}.h5", Silent())
            runs.setdefault(name, []).append(Run(cell.config, open_result(tmp_path / f"{cell.config.digest}.h5")))
    found = study(runs)
    found.save(tmp_path / "words" / "collaborators.json")
    assert len(found.claims) == 9
    assert {path.suffix for path in (tmp_path / "words").iterdir()} == {".json", ".svg", ".png"}
    for name in ("oracle", "fedavg", "local"):
        assert name in found.claims[2].found.lower()


@pytest.mark.parametrize("name", ["collaborators_toy", "collaborators_digits"])
def test_groups_are_those_of_all_clients(name: str) -> None:
    build = module(name).build
    everybody, halves = build(seed=3), [build(seed=3, group=group) for group in (0, 1)]
    assert len(everybody) == 8
    assert [sorted(half) for half in halves] == [sorted(everybody)[group::2] for group in (0, 1)]
    for half in halves:
        for client, parts in half.items():
            for part, (x, y) in parts.items():
                np.testing.assert_array_equal(x, everybody[client][part][0])
                np.testing.assert_array_equal(y, everybody[client][part][1])


def test_coefficients_of_the_toy_are_opposite_in_the_first_half() -> None:
    clients = module("collaborators_toy").build(seed=1)
    first, second = (np.linalg.lstsq(*clients[name]["test"], rcond=None)[0] for name in ("00", "01"))
    np.testing.assert_allclose(first * np.repeat([-1, 1], 10), second, rtol=1e-9)
    assert clients["00"]["train"][0].shape == (30, 20)
