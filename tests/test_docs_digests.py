"""Runs that pages name by their digests are runs of files in configs/.

What is dated and names its commit is history: it was true of that commit, and its runs need not exist any more. A
paragraph is history when it says both, and so is a section whose first paragraph does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ppfl.config.grid import choose_cell, load_cells
from ppfl.core.errors import UserError
from tests.slurm import session

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "slurm" / "README.md", ROOT / "configs" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
CELL = re.compile(r"(\S+\.yaml)[^\n`]*? --cell (\S+?)(?=[\s`)]|$)")
DATE, COMMIT = re.compile(r"\b20\d\d-\d\d-\d\d\b"), re.compile(r"commit [0-9a-f]{7,}")


def is_history(text: str) -> bool:
    return bool(DATE.search(text) and COMMIT.search(text))


def present(text: str) -> Iterator[str]:
    """Yield the paragraphs of a page that are not history."""
    for section in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        title, _, body = section.partition("\n")
        paragraphs = [part for part in re.split(r"\n\s*\n", body) if part.strip()]
        if title.startswith("## ") and paragraphs and is_history(paragraphs[0]):
            continue
        yield title
        yield from (part for part in paragraphs if not is_history(part))


@cache
def digests() -> frozenset[str]:
    """Return the digests of all runs of files in configs/ whose data are here."""
    found: set[str] = set()
    for path in (ROOT / "configs").rglob("*.yaml"):
        try:
            found.update(load_cells(path))
        except UserError:  # a file for the workflow, or data that are elsewhere
            continue
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_digests_on_a_page_are_runs_of_the_repository(page: Path) -> None:
    for paragraph in present(page.read_text(encoding="utf-8")):
        for config, beginning in CELL.findall(paragraph):
            if beginning == "DIGEST":
                continue
            runs = ", ".join(load_cells(ROOT / config))
            assert choose_cell(ROOT / config, (), beginning).digest in digests(), f"{config} has {runs}"
        unknown = set(DIGEST.findall(paragraph)) - digests()
        assert not unknown, f"{page.name}: no runs of any file in configs/: {sorted(unknown)}; in: {paragraph[:200]}"


def test_history_is_told_by_date_and_commit() -> None:
    then = "On 2026-11-22, commit dbe225b9da5f"
    text = (
        f"# Page\n\nrun 0123456789abcdef\n\n{then}: run 1123456789abcdef\n\n## Then\n\n{then}.\n\nrun 2123456789abcdef"
    )
    text += "\n\n## Now\n\nOn 2026-11-22.\n\nrun 3123456789abcdef\n"
    found = DIGEST.findall("\n\n".join(present(text)))
    assert found == ["0123456789abcdef", "3123456789abcdef"]
    assert CELL.findall("$ ppfl submit a.yaml --cell 3f --ranks 4") == [("a.yaml", "3f")]


def test_a_session_is_written_where_the_page_has_a_place_for_it(tmp_path: Path) -> None:
    page = tmp_path / "cluster.md"
    page.write_text(session.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    for again in (1, 2):
        session.write({name: [f"$ {name} {again}", "0123456789abcdef"] for name in ("run", "grid", "pack")}, page)
        text = page.read_text(encoding="utf-8")
        assert [text.count(f"$ {name} {again}\n") for name in ("run", "grid", "pack")] == [1, 1, 1]
    assert "$ run 1" not in text
    # with its date and its commit a session is history
    assert "0123456789abcdef" not in "".join(present(text))
