"""Plug-ins as users write them, and a configuration that names one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SMALLEST = '''\
"""The mean without the vectors of largest norm."""

from typing import Literal

from pydantic import NonNegativeInt

from ppfl.interfaces.aggregator import Aggregator

from ._choice import weights_of_smallest


class Smallest(Aggregator):
    """mean of the N - f vectors of smallest norm."""

    name: Literal["smallest"]
    f: NonNegativeInt
    """Byzantine vectors at most."""

    def rule(self, matrix):
        """Return the mean of those that are kept, shape (D,)."""
        return matrix.combine(weights_of_smallest(matrix.norms(), self.f))
'''
CHOICE = '''\
"""What rules that choose have in common."""

import torch


def weights_of_smallest(norms, f):
    """Return equal weights for the N - f smallest, 0 for others, (N,) float64."""
    from ..numbers import one

    kept = torch.argsort(norms, stable=True)[: len(norms) - f]
    weights = torch.zeros(len(norms), dtype=torch.float64)
    weights[kept] = one() / len(kept)
    return weights
'''
NUMBERS = """\
def one():
    return 1.0
"""
DOCUMENT: dict[str, Any] = {
    "name": "outside", "rounds": 6, "precision": "float64",
    "problem": {"name": "quadratic", "generator": "comparison", "clients": 5, "rows": 40, "shared_dimension": 5,
                "local_dimension": 2},
    "algorithm": {"name": "ffgg", "lr": "theory", "fine_tuner": {"name": "exact"}},
    "aggregator": {"name": "smallest", "f": 1},
    "evaluate": {"every": 2, "tuned": {"epochs": 0}},
    "save": {"local": True},
    "plugins": ["rules"],
}  # fmt: skip


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    """Write files by their paths."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def project(folder: Path, files: dict[str, str | bytes] | None = None, **sections: Any) -> Path:
    """Write the rule, perhaps other files, and a configuration; return the configuration."""
    rule = {"aggregators/smallest.py": SMALLEST, "aggregators/_choice.py": CHOICE, "numbers.py": NUMBERS}
    write(folder / "rules", {**rule, **(files or {})})
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, **sections}), encoding="utf-8")
    return path


def rule_called(name: str, body: str = "return matrix.combine(matrix.norms() * 0)") -> str:
    """Return the text of a file with an aggregator."""
    return (
        "from typing import Literal\n"
        "from ppfl.interfaces.aggregator import Aggregator\n\n\n"
        f'class {name.title()}(Aggregator):\n    name: Literal["{name}"]\n\n'
        f"    def rule(self, matrix):\n        {body}\n"
    )
