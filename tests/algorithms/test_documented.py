"""docs/methods.md says of algorithms what their classes say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import examples
from tests.algorithms.cases import NAMES, splits_of

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def rows() -> dict[str, str]:
    """Return {name: the cell `split` of its row}, of all tables that have such a column."""
    found: dict[str, str] = {}
    column: int | None = None
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if not line.startswith("|"):
            column = None
        elif column is None:
            column = cells.index("split") if "split" in cells else 0
        elif column and cells[1].startswith("`"):
            found[cells[1].strip("`")] = cells[column]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_which_splits_a_method_is_made_for(name: str) -> None:
    said = rows().get(name, "")
    assert re.match(splits_of(name) + r"\b", said), f"the row of {name} in docs/methods.md says {said!r}"


def test_the_table_has_no_others() -> None:
    assert rows().keys() <= set(NAMES)


def test_the_page_says_who_runs_asynchronously() -> None:
    (said,) = re.findall(r"Who runs asynchronously: all but (.*); the message says why", PAGE)
    synchronous = [name for name in NAMES if examples.kind("algorithms", name).needs_rounds]
    assert sorted(re.findall(r"`(\w+)`", said)) == synchronous
