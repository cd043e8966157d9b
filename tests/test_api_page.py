"""The page about the face for Python is executed as the cells of one notebook."""

from __future__ import annotations

import linecache
import re
import types
from pathlib import Path

import pytest

from ppfl.outside import cells

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
BLOCK = re.compile(r"<!-- (executed|file: (\S+)) -->\n```\w+\n(.*?)```", re.DOTALL)


def test_the_page_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "_registered", {})
    text = PAGE.read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert len(blocks) == len(re.findall("^```(?:python|yaml)$", text, re.MULTILINE)) >= 8
    notebook = types.ModuleType("__main__")
    for number, (_, file, content) in enumerate(blocks):
        if file:
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            continue
        name = f"<cell {number} of {PAGE.name}>"
        monkeypatch.setitem(linecache.cache, name, (len(content), None, content.splitlines(keepends=True), name))
        exec(compile(content, name, "exec", dont_inherit=True), notebook.__dict__)
    assert (tmp_path / "attacked.h5").exists()


def test_the_page_names_all_that_there_is() -> None:
    import ppfl

    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `ppfl\.(\w+)\(", text, re.MULTILINE)) == set(ppfl.__all__)
    assert {*ppfl.__all__} <= set(dir(ppfl))
