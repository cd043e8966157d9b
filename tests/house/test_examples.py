"""The examples in docstrings say what happens, and every base class of plug-ins has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ppfl.core.plugins import PlugIn
from ppfl.interfaces.client_data import ClientData
from ppfl.interfaces.objective import Objective
from ppfl.interfaces.problem import Problem
from ppfl.interfaces.scores import Scores
from ppfl.interfaces.theory import Theory
from tests.house.counts import INTERFACES, ROOT

SOURCES = sorted((ROOT / "ppfl").rglob("*.py"))
FINDER = doctest.DocTestFinder(exclude_empty=True)


def module_of(source: Path) -> ModuleType:
    return importlib.import_module(".".join(source.relative_to(ROOT).with_suffix("").parts))


def examples_of(module: ModuleType) -> list[doctest.DocTest]:
    # without the names of the module: a reader who copies an example has none of them either
    found = FINDER.find(module, globs={"__name__": "__main__"})
    return [test for test in found if test.examples]


def base_classes() -> set[type[Any]]:
    modules = [module_of(source) for source in SOURCES if source.parent.name in INTERFACES]
    classes = {value for module in modules for _, value in inspect.getmembers(module, inspect.isclass)}
    return {Problem, Objective, ClientData, Scores, Theory} | {
        kind for kind in classes if issubclass(kind, PlugIn) and kind is not PlugIn
    }


EXAMPLES = {
    test.name: test
    for source in SOURCES
    if ">>> " in source.read_text(encoding="utf-8")
    for test in examples_of(module_of(source))
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_says_what_happens(name: str) -> None:
    runner = doctest.DocTestRunner(verbose=False)
    told: list[str] = []
    runner.run(EXAMPLES[name], out=told.append)
    assert not runner.summarize(verbose=False).failed, "".join(told)


@pytest.mark.parametrize("base", sorted(base_classes(), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_a_base_class_shows_how_a_plug_in_is_written(base: type[Any]) -> None:
    assert f"{base.__module__}.{base.__qualname__}" in EXAMPLES
