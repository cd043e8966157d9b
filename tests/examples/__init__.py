"""Plug-ins as tests try them out: whatever a folder holds, with the `example` of its class.

An example may name files; `write` of tests/examples/<folder>/<name>.py makes them.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import ppfl
from ppfl.core.plugins import discover

_PACKAGE = Path(ppfl.__file__).parent
# sections name their folders; classes are imported when somebody names one
FOLDERS = sorted({
    folder
    for path in _PACKAGE.rglob("*.py")
    for folder in re.findall(r'ChosenFrom\("ppfl\.(\w+)"', path.read_text(encoding="utf-8"))
    if (_PACKAGE / folder).is_dir()
})  # fmt: skip
"""algorithms, aggregators, …"""
EACH = [(folder, name) for folder in FOLDERS for name in discover(f"ppfl.{folder}")]


def names(folder: str) -> list[str]:
    """Return what a folder holds."""
    return sorted(discover(f"ppfl.{folder}"))


def names_of_files(folder: str) -> set[str]:
    """Return what of it comes with ppfl, whatever else was found."""
    return {path.stem for path in (Path(ppfl.__file__).parent / folder).glob("[!_]*.py")}


def kind(folder: str, name: str) -> Any:
    """Return a class."""
    return discover(f"ppfl.{folder}")[name]


def section(folder: str, name: str, **others: Any) -> dict[str, Any]:
    """Return its example as a section of a configuration, some settings replaced."""
    return {"name": name, **kind(folder, name).example, **others}


def make(folder: str, name: str, **others: Any) -> Any:
    """Return the plug-in of its example, some settings replaced."""
    return kind(folder, name).model_validate(section(folder, name, **others), context={"folder": files(folder, name)})


def accepts(folder: str, name: str, settings: dict[str, Any]) -> bool:
    """Say whether these are settings of it."""
    try:
        kind(folder, name).model_validate(settings, context={"folder": files(folder, name)})
    except ValueError:
        return False
    return True


@cache
def files(folder: str, name: str) -> Path:
    """Return the folder of the files that its example names."""
    path = Path(tempfile.mkdtemp(prefix="ppfl-example-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    module = f"tests.examples.{folder}"
    if importlib.util.find_spec(module) and importlib.util.find_spec(f"{module}.{name}"):
        importlib.import_module(f"{module}.{name}").write(path)
    return path
