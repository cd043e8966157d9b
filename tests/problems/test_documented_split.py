"""The configuration of docs/splits.md runs, and does what the page says of it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.engine.build import engine

PAGE = (Path(__file__).parents[2] / "docs" / "splits.md").read_text(encoding="utf-8")
FEDALT = {
    "name": "fedalt", "lr": 0.1, "local_steps": 1,
    "fine_tuner": {"name": "sgd", "lr": 0.1, "batch_size": 8},
}  # fmt: skip


def test_the_example_runs() -> None:
    found = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert found
    going = engine(**yaml.safe_load(found[1]), algorithm=FEDALT, rounds=2)
    assert [scored.round for scored in going][-1] == 2
    problem = going.setup.problem
    assert set(problem.objective.init_shared()) == {"head.weight", "head.bias"}
    assert all("lora" in name for name in problem.local_names)
    assert going.server["shared"].keys() == {"head.weight", "head.bias"}
