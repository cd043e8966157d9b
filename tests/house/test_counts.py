"""The counts of the house, on a small one where they are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house import counts

MODULES = {
    "__init__.py": "",
    "__main__.py": "import sys\n\nfrom small.engine.rounds import Rounds\n\nRounds().run(sys.argv[1])\n",
    "core/method.py": '''
"""An interface."""

from abc import ABC, abstractmethod
from typing import ClassVar

# why it is as it is
LIMIT = 3  # noqa: N816


class Method(ABC):
    """What methods are.

    >>> LIMIT
    3
    >>> LIMIT + 1
    4
    """

    is_able: ClassVar[bool] = False
    is_alone: ClassVar[bool] = False
    steps: int = 1

    @property
    def why_not(self) -> str:
        """Say why."""
        return ""

    @abstractmethod
    def server_of_cohort(self) -> int:
        """Step."""

    def helper(self) -> int | None:
        return None

    def _own(self) -> bool:
        return self.is_alone


class Rarely(Method):
    def server_of_cohort(self) -> int:
        return super().server_of_cohort()
''',
    "core/unused.py": "def nobody_calls() -> None:\n    pass\n",
    "engine/rounds.py": '''
from small.core.method import LIMIT, Rarely


class Rounds:
    """Runs."""

    def run(self, name: str) -> str:
        method = Rarely.__new__(Rarely)
        if method.is_able or method.why_not or method.helper() or name == "asked":
            method.server_of_cohort()
            return "diverged" if LIMIT < 0 else "complete"
        return ""
''',
    "engine/asks.py": """
def is_over(status: str) -> bool:
    return status == "diverged"
""",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    package = tmp_path / "small"
    for name, text in MODULES.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
    return package


def test_a_small_house_is_counted(small: Path) -> None:
    assert counts.counts(small, None) == {
        "`ppfl/core`": "2 files",
        "loose modules in `ppfl/`": "1",
        "largest interface": "`Method`: 3 public methods and 3 attributes",
        "capability flags, of those of 2026-11-28": "0",
        "others that look like flags": "3: `helper`, `is_able`, `why_not`",
        "implementations of a synchronous round": "1",
        "places that decide divergence": "1",
        "comments": f"1, one for {sum(len(text.splitlines()) for text in MODULES.values())} lines",
        "docstrings of one line": "80 %",
        "runnable examples": "1 docstrings, 2 statements",
    }


def test_a_second_round_and_a_second_judge_are_seen(small: Path) -> None:
    (small / "engine" / "other.py").write_text(
        'def step(method, run):\n    method.server_of_cohort()\n    run.status = "diverged"\n', encoding="utf-8"
    )
    found = counts.counts(small, None)
    assert found["implementations of a synchronous round"] == found["places that decide divergence"] == "2"


def test_files_are_entered_by_calling_their_functions(small: Path) -> None:
    """Importing a file is not enough, and neither are the bodies of its classes."""
    assert counts.entered(small, ["asked"]) == {small / "engine/rounds.py", small / "core/method.py"}


def test_reasons_are_given() -> None:
    """One comment for 60 lines at least: that many places have a reason which the code cannot tell."""
    sources = counts.sources_of(counts.ROOT / "ppfl")
    assert 60 * counts.num_comments(sources) >= sum(source.num_lines for source in sources)
