"""What holds for every plug-in of every folder, and that no test has a table which a new one would have to join."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from ppfl.config.run import Config
from ppfl.core.plugins import PlugIn, discover
from tests import examples

TESTS = Path(__file__).parent
FEW = 4
"""Plug-ins of a folder of which a test may name any number: what it says of them is no list of all."""


def choices(node: Any) -> set[frozenset[str]]:
    """Return the names of each place in a schema where plug-ins can stand."""
    if isinstance(node, list):
        return set().union(*map(choices, node))
    if not isinstance(node, dict):
        return set()
    mine = {frozenset(node["discriminator"]["mapping"])} if "discriminator" in node else set()
    return mine.union(*map(choices, node.values()))


def test_all_folders_that_a_configuration_chooses_from_are_tested() -> None:
    assert choices(Config.model_json_schema()) == {frozenset(examples.names(folder)) for folder in examples.FOLDERS}


@pytest.mark.parametrize(("folder", "name"), examples.EACH)
def test_the_example_is_valid_and_says_all_that_has_no_default(folder: str, name: str) -> None:
    assert examples.make(folder, name).name == name


@pytest.mark.parametrize(("folder", "name"), examples.EACH)
def test_all_that_a_value_holds_stands_in_its_fields(folder: str, name: str) -> None:
    """What is kept in private attributes is left out of dumps, and told apart by nobody."""
    for kind in examples.kind(folder, name).__mro__:
        if issubclass(kind, PlugIn):
            assert not kind.__private_attributes__, kind


def literals(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line, names) of each literal in a file: the keys of a dict, the members of a list, tuple or set."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        members: list[Any] = []
        if isinstance(node, ast.Dict):
            members = node.keys
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            members = [
                member.elts[0] if isinstance(member, ast.Tuple) and member.elts else member for member in node.elts
            ]
        words = [member.value for member in members if isinstance(member, ast.Constant)]
        found.append((getattr(node, "lineno", 0), [word for word in words if isinstance(word, str)]))
    return found


def tables(path: Path) -> list[str]:
    """Return where a file names more than half of a folder, and more than a few, each once: as a table does."""
    folders = {folder: set(discover(f"ppfl.{folder}")) for folder in examples.FOLDERS}
    return [
        f"{path}:{line} lists {folder}"
        for line, words in literals(path)
        for folder, names in folders.items()
        if len(names & set(words)) > max(FEW, len(names) / 2) and len(words) == len(set(words))
    ]


def test_no_test_has_a_table_that_a_new_plug_in_would_have_to_join() -> None:
    assert [table for path in sorted(TESTS.rglob("*.py")) for table in tables(path)] == []


def test_a_table_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "table.py"
    path.write_text("x = " + repr(dict.fromkeys(discover("ppfl.algorithms"))), encoding="utf-8")
    assert len(tables(path)) == 1
    path.write_text("x = " + repr([(name, 1) for name in discover("ppfl.aggregators")]), encoding="utf-8")
    assert len(tables(path)) == 1
