"""Whatever file a plug-in reads is damaged by the fuzz: a reader without a kind of tests/fuzz/data.py fails here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from ppfl.config.run import load
from ppfl.core.data_file import DataFile
from ppfl.core.plugins import Settings
from tests import examples
from tests.fuzz.data import KINDS

Key = tuple[str, str]
"""A class of settings, and one of its keys."""


def declared(kind: type[Settings], seen: set[type]) -> Iterator[Key]:
    """Yield the keys of a class, and of the sections in it, that name a file."""
    if kind in seen:
        return
    seen.add(kind)
    for key, field in kind.__pydantic_fields__.items():
        for part in parts_of(field.annotation):
            if part is DataFile:
                yield kind.__name__, key
            elif isinstance(part, type) and issubclass(part, Settings):
                yield from declared(part, seen)


def parts_of(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from parts_of(part)


def named(value: Any) -> Iterator[Key]:
    """Yield the keys of a configuration whose values are files."""
    if isinstance(value, Settings):
        for key in type(value).__pydantic_fields__:
            inner = getattr(value, key)
            for one in inner if isinstance(inner, tuple) else (inner,):
                if isinstance(one, DataFile):
                    yield type(value).__name__, key
                yield from named(one)


def test_every_key_that_names_a_file_is_fuzzed(tmp_path: Path) -> None:
    seen: set[type] = set()
    wanted = {key for folder, name in examples.EACH for key in declared(examples.kind(folder, name), seen)}
    assert {("FederatedHDF5", "train"), ("Clients", "names"), ("TextHDF5", "counts")} <= wanted
    found: set[Key] = set()
    for number, kind in enumerate(KINDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        kind.make(folder)
        found.update(named(load(folder / "config.yaml")))
    missing = sorted(wanted - found)
    assert not missing, f"add kinds to tests/fuzz/data.py whose configurations name {missing}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_files_without_damage_are_read(tmp_path: Path, kind: Any) -> None:
    assert kind.check(kind.make(tmp_path)) == "equal"
