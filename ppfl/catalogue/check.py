"""`ppfl data check`: what is in the files of a data set, beside what is published about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ppfl.catalogue.counted import Counted, shown
from ppfl.catalogue.index import find, where_to_put
from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ppfl.catalogue.entry import DataSet, Rule, Source


@dataclass(frozen=True)
class Finding:
    """One fact, as it was found."""

    verdict: Literal["ok", "deviation", "missing", "not published"]
    text: str
    source: Source | None = None


def check(name: str, folder: Path) -> Iterator[Finding]:
    """Yield a finding a fact, as files are counted. Raises UserError where there is no file, and for damaged ones."""
    data_set, home = find(name), folder / name
    there = [file for file in data_set.published if (home / file.name).exists()]
    if not there:
        raise UserError(f"{home}: has none of {', '.join(file.name for file in data_set.published)}; fetch them, or "
                        f"{where_to_put(name, folder)}")  # fmt: skip
    counted: dict[str, Counted] = {}
    for file in data_set.published:
        if file not in there:
            if not file.is_made:
                yield Finding("missing", f"{file.name}: is not in {home}")
            continue
        found = counted[file.name] = file.count(home / file.name)
        for fact in dict.fromkeys([*found.facts, *file.facts]):
            is_look = fact in found.facts and fact not in file.facts
            if is_look and not isinstance(found.facts[fact], int):
                continue  # how a field looks that nothing is published about
            yield _compared(file.name, fact, found.facts.get(fact), file.facts.get(fact), file.source)
        if not found.facts:
            yield Finding("not published", f"{file.name}: can be read; nothing is published about it")
    yield from _by_rules(data_set, counted)


def _compared(file: str, fact: str, found: int | str | None, published: int | str | None, source: Source) -> Finding:
    has = f"{file}: {_said(fact, found)}"
    if published is None:
        return Finding("not published", has)
    if found == published:
        return Finding("ok", has, source)
    return Finding("deviation", f"{has}; published: {shown(published)}", source)


def _said(fact: str, found: int | str | None) -> str:
    if found is None:
        return f"no {fact}"
    return f"{shown(found)} {fact}" if isinstance(found, int) else f"{fact} {found}"


def _by_rules(data_set: DataSet, counted: Mapping[str, Counted]) -> Iterator[Finding]:
    for rule in data_set.rules:
        files = [file for file in (rule.train_file, rule.test_file) if file]
        if any(file not in counted for file in files):
            continue
        number = _num_left(rule, counted)
        text = f"{', '.join(files)}: {number:,} {rule}"
        if number == rule.num_clients:
            yield Finding("ok", text, rule.source)
        else:
            yield Finding("deviation", f"{text}; published: {rule.num_clients:,}", rule.source)


def _num_left(rule: Rule, counted: Mapping[str, Counted]) -> int:
    train, test = (counted[file].sizes if file else {} for file in (rule.train_file, rule.test_file))
    return sum(
        train.get(name, 0) >= rule.train
        and test.get(name, 0) >= rule.test
        and train.get(name, 0) + test.get(name, 0) >= rule.total
        for name in {*train, *test}
    )
