"""Many runs in one file: `grid:` maps dotted paths of keys to lists of values, and every combination is a run.

    grid:
      problem.zeta: [0, 1, 10]                                 # a product of lists
      zip:                                                     # lists walked through together
        - {rounds: [100, 200], algorithm.lr: [0.2, 0.1]}
      cases:                                                   # listed combinations
        - {algorithm.fine_tuner: {name: exact}}
        - {algorithm.fine_tuner: {name: adam, lr: 0.01}, precision: float64}

`zip` and `cases` cannot be taken for paths: a path begins with a top-level key of a configuration.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppfl.config.errors import ConfigError, Finding, show_value
from ppfl.config.run import Config, validate
from ppfl.config.scope import scope_of
from ppfl.config.start import starts_read_once
from ppfl.config.yaml_file import NoSuchPathError, apply_overrides, read_yaml, set_path
from ppfl.core.collector import without_collector
from ppfl.core.errors import UserError
from ppfl.core.yaml_text import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ppfl.config.scope import Scope

_MAX_LISTED = 20
_MAX_RUNS = 100_000
"""Of a file: each is checked before the first one starts, and all are held in memory."""
_OF_THE_FILE = {
    "name": "one name for all runs of a file: results are filed under it, and a run is told apart by its digest",
    "plugins": "the same folders for all runs of a file",
}
"""Keys that cannot vary."""
_MAX_WRONG = 1000
"""Different mistakes after which no more runs are looked at."""


@dataclass(frozen=True)
class Cell:
    """One run of a grid; `varying` has what the grid sets, by dotted path."""

    digest: str
    config: Config
    varying: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.digest} ({show_varying(self.varying)})" if self.varying else self.digest


@dataclass(frozen=True)
class _Entry:
    """A value that the grid sets, and where in the file it says so."""

    value: Any
    origin: str


_Choice = dict[str, _Entry]
"""What one element of a factor of the product sets, by path."""


def show_varying(varying: Mapping[str, Any]) -> str:
    """Return `path=value, …`."""
    return ", ".join(f"{path}={show_value(value)}" for path, value in varying.items())


def load_cells(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Cell]:
    """Return {digest: run} of a configuration file, in the order of the grid; one run when there is no grid.

    Raises ConfigError with everything that is wrong in any run.
    """
    path = Path(path)
    document = apply_overrides(read_yaml(path), tuple(overrides))
    return cells_of(document, path.parent, str(path), overrides)


def cells_of(document: Mapping[str, Any], folder: Path, source: str, overrides: Sequence[str] = ()) -> dict[str, Cell]:
    """Return {digest: run} of a document."""
    # the grid is taken out before anything is validated: a run of it has the digest of the same run written by itself
    base = {key: value for key, value in document.items() if key != "grid"}
    if "grid" not in document:
        config = validate(base, folder, source)
        return {config.digest: Cell(config.digest, config, {})}
    factors = _factors(document["grid"], source)
    _refuse_overridden(factors, overrides)
    _refuse_size(factors, source)
    with without_collector(), starts_read_once():
        choices = [dict(itertools.chain.from_iterable(map(dict.items, parts))) for parts in itertools.product(*factors)]
        scope = scope_of(base, folder, source)
        return _distinct(_validated(base, choices, folder, source, scope), source)


def planned(path: Path, overrides: Sequence[str] = (), results: Path | None = None) -> dict[Path, Cell]:
    """Return {where its result goes: run} of a configuration file; `results` stands for results/<name>."""
    cells = load_cells(path, overrides)
    return {results / f"{digest}.h5" if results else cell.config.default_out(): cell for digest, cell in cells.items()}


def varied_paths(document: Mapping[str, Any]) -> set[str]:
    """Return the dotted paths that the grid of a document sets; what is wrong in it is told by `cells_of`."""
    grid = document.get("grid")
    if not isinstance(grid, dict):
        return set()
    listed = [group for key in ("zip", "cases") if isinstance(grid.get(key), list) for group in grid[key]]
    return {key for key in grid if key not in ("zip", "cases")}.union(*(g for g in listed if isinstance(g, dict)))


def refuse_for_results(source: Path, results: Path | None, overrides: Sequence[str]) -> None:
    """Raise UserError for options that say something of a configuration, given with results themselves."""
    given = [f"--results {results}"] if results is not None else [f"--set {override}" for override in overrides]
    if given:
        raise UserError(f"{given[0]}: is for a configuration file; {source} has its results in itself")


def choose_cell(path: Path | str, overrides: Sequence[str], beginning: str | None) -> Cell:
    """Return the run whose digest begins like this; a file without grid has one, which needs no choosing.

    Raises ConfigError that lists the runs.
    """
    cells = load_cells(path, overrides)
    is_grid = any(cell.varying for cell in cells.values())
    if beginning is None and not is_grid:
        return next(iter(cells.values()))
    return choose_among(cells, path, beginning, "--cell")


def choose_among(cells: Mapping[str, Cell], path: Path | str, beginning: str | None, where: str) -> Cell:
    """Return the one whose digest begins like this, for an option or a key. Raises ConfigError that lists the runs."""
    wanted = (beginning or "").strip().lower()
    matches = [cell for digest, cell in cells.items() if wanted and digest.startswith(wanted)]
    if len(matches) == 1:
        return matches[0]
    listed = matches or list(cells.values())
    more = f", and {len(listed) - _MAX_LISTED} more (see `ppfl grid {path}`)" if len(listed) > _MAX_LISTED else ""
    allowed = ", ".join(map(str, listed[:_MAX_LISTED])) + more
    what = "matches several runs" if matches else "no such run" if wanted else "needed, since the file is a grid"
    given = f" (given {show_value(beginning)})" if beginning is not None else ""
    raise ConfigError(str(path), Finding.text(f"{where}: {what}{given}; allowed: {allowed}"))


def _factors(grid: Any, source: str) -> list[list[_Choice]]:
    """Return the factors of the product. Raises ConfigError with everything wrong in the section itself."""
    if not isinstance(grid, dict) or not grid:
        allowed = "a mapping of key paths to lists, e.g. {seed: [0, 1, 2]}"
        raise ConfigError(source, Finding("grid", grid, allowed))
    findings: list[Finding] = []
    factors: list[list[_Choice]] = []
    for key, value in grid.items():
        if key == "zip":
            factors += _zips(value, findings)
        elif key == "cases":
            factors.append(_cases(value, findings))
        elif _is_path(key, f"grid.{key}", value, findings) and _is_list(f"grid.{key}", value, findings):
            factors.append([{key: _Entry(item, f"grid.{key}")} for item in value])
    origins: dict[str, str] = {}
    for number, factor in enumerate(factors):
        for path, entry in {path: entry for choice in factor for path, entry in choice.items()}.items():
            if origins.setdefault(path, f"{number} {entry.origin}").split(" ", 1)[0] != str(number):
                findings.append(Finding(entry.origin, entry.value, "each path once in the grid", "set twice"))
    if findings:
        raise ConfigError(source, *findings)
    return factors


def _zips(groups: Any, findings: list[Finding]) -> Iterator[list[_Choice]]:
    if not isinstance(groups, list) or not groups:
        findings.append(Finding("grid.zip", groups, "a list of mappings of paths to lists, e.g. [{seed: [0, 1]}]"))
        return
    for number, group in enumerate(groups):
        where = f"grid.zip[{number}]"
        if not isinstance(group, dict) or not group:
            findings.append(Finding(where, group, "a mapping of paths to lists of equal length"))
            continue
        checks = [
            _is_path(path, f"{where}.{path}", values, findings) and _is_list(f"{where}.{path}", values, findings)
            for path, values in group.items()
        ]
        if not all(checks):
            continue
        lengths = {path: len(values) for path, values in group.items()}
        if len(set(lengths.values())) > 1:
            findings.append(Finding(where, lengths, "lists of equal length", "unequal lengths"))
            continue
        yield [
            {path: _Entry(value, f"{where}.{path}") for path, value in zip(group, values, strict=True)}
            for values in zip(*group.values(), strict=True)
        ]


def _cases(cases: Any, findings: list[Finding]) -> list[_Choice]:
    if not isinstance(cases, list) or not cases:
        findings.append(Finding("grid.cases", cases, "a list of mappings of paths to values, e.g. [{seed: 0}]"))
        return []
    choices = []
    for number, case in enumerate(cases):
        where = f"grid.cases[{number}]"
        if not isinstance(case, dict) or not case:
            findings.append(Finding(where, case, "a mapping of paths to values"))
            continue
        checks = [_is_path(path, f"{where}.{path}", value, findings) for path, value in case.items()]
        if all(checks):
            choices.append({path: _Entry(value, f"{where}.{path}") for path, value in case.items()})
    return choices


def _is_list(where: str, values: Any, findings: list[Finding]) -> bool:
    if isinstance(values, list) and values:
        return True
    findings.append(Finding(where, values, "a list of at least one value"))
    return False


def _is_path(path: str, where: str, value: Any, findings: list[Finding]) -> bool:
    known = sorted(Config.model_fields)
    head, *rest = path.split(".", MAX_DEPTH)
    if head in _OF_THE_FILE:
        allowed = _OF_THE_FILE[head]
        findings.append(Finding(where, value, allowed, "cannot vary"))
        return False
    if head in known and all(rest) and len(rest) < MAX_DEPTH:
        return True
    allowed = f"{', '.join(known)}, dotted paths below them, cases, zip"
    findings.append(Finding(where, value, allowed, "unknown path", head, [*known, "cases", "zip"]))
    return False


def _refuse_overridden(factors: list[list[_Choice]], overrides: Sequence[str]) -> None:
    for override in overrides:
        path = override.partition("=")[0].strip()
        for varied in {varied for factor in factors for choice in factor for varied in choice}:
            if path == varied or path.startswith(f"{varied}."):
                what = f"{path} is set by the grid (given {override!r}); allowed: a path that the grid does not set"
                raise ConfigError("--set", Finding.text(what))


def _refuse_size(factors: list[list[_Choice]], source: str) -> None:
    """Refuse more runs than anybody can mean, before they are made."""
    sizes = [len(factor) for factor in factors]
    if prod(sizes) > _MAX_RUNS:
        what = f"{prod(sizes)} runs ({' x '.join(map(str, sizes))})"
        raise ConfigError(source, Finding.text(f"grid: {what}; allowed: at most {_MAX_RUNS} in one file"))


def _validated(base: dict[str, Any], choices: list[_Choice], folder: Path, source: str, scope: Scope) -> list[Cell]:
    cells: list[Cell] = []
    counts: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], tuple[Finding, _Choice]] = {}
    more = 0
    for choice in choices:
        varying = {path: entry.value for path, entry in choice.items()}
        try:
            config = validate(_filled(base, choice, source), folder, source, scope)
            cells.append(Cell(config.digest, config, varying))
        except ConfigError as error:
            more = max(more, error.more)
            for finding in error.findings:
                at_home = _at_origin(finding, choice)
                value = "" if at_home.what == "unknown key" else show_value(at_home.given)
                key: tuple[str, ...] = (at_home.where, at_home.what, at_home.allowed, value)
                counts[key] += 1
                first.setdefault(key, (at_home, choice))
            if len(first) >= _MAX_WRONG:
                raise ConfigError(source, *(finding for finding, _ in first.values()), more=more) from None
    if not first:
        return cells
    findings = []
    for key, (finding, choice) in first.items():
        varying = {path: entry.value for path, entry in choice.items()}
        note = "" if counts[key] == len(choices) else f"in the run with {show_varying(varying)}"
        findings.append(replace(finding, note=note))
    raise ConfigError(source, *findings, more=more)


def _filled(base: dict[str, Any], choice: _Choice, source: str) -> dict[str, Any]:
    """Return the document of one run; whole sections are set before keys inside them."""
    document = base
    for path in _outer_first(tuple(choice)):
        entry = choice[path]
        try:
            document = set_path(document, path, entry.value)
        except NoSuchPathError as error:
            allowed = f"paths below keys that have keys of their own, which {error.args[0]} has not"
            raise ConfigError(source, Finding(entry.origin, entry.value, allowed, "unknown path")) from None
    return document


@cache
def _outer_first(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(paths, key=lambda path: path.count(".")))


def _at_origin(finding: Finding, choice: _Choice) -> Finding:
    """Name the place in the grid section when the grid set what is wrong."""
    # the longest path first: a grid may set a section and a key inside of it, and the inner one has the last word
    for path in sorted(choice, key=len, reverse=True):
        rest = finding.where.removeprefix(path)
        if finding.where.startswith(path) and (not rest or rest[0] in ".["):
            return replace(finding, where=choice[path].origin + rest)
    return finding


def _distinct(cells: list[Cell], source: str) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    twins = [(found[cell.digest], cell) for cell in cells if found.setdefault(cell.digest, cell) is not cell]
    if twins:
        first, second = twins[0]
        what = f"{show_varying(first.varying)} and {show_varying(second.varying)} are the same run {first.digest}"
        more = f" ({len(twins) - 1} more like this)" if len(twins) > 1 else ""
        allowed = "runs that differ in more than engine, save and checkpoint"
        raise ConfigError(source, Finding.text(f"grid: {what}{more}; allowed: {allowed}"))
    return found
