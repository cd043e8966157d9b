"""The runs that `ppfl collect`, `table` and `plot` are about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ppfl.analysis.factors import find_factors, flatten, same
from ppfl.config.errors import show_value
from ppfl.config.grid import planned, refuse_for_results
from ppfl.config.yaml_file import parse_yaml
from ppfl.core.errors import UserError
from ppfl.jobs.outcome import outline
from ppfl.results.collection import is_collection
from ppfl.results.collection_reader import Collected, open_collection
from ppfl.results.layout import FILE_KIND, FINISHED, PLUG_INS
from ppfl.results.quick_reader import MISSING, Outline, kind_of, read_numbers, why_unreadable
from ppfl.results.seal import DamagedError
from ppfl.results.stored_config import stored_config

Arrays = dict[str, npt.NDArray[Any]]
Read = Callable[[int, Collection[str], Collection[str]], tuple[Arrays, Arrays]]
"""From the number of a run, names of series and names of final metrics to those that it has."""

_ASIDE = re.compile(r"\.incomplete-\d+\.h5$")
_MAX_LISTED = 3


@dataclass(frozen=True)
class Source:
    """Runs of one experiment, finished or not; sequences are in the order of the runs."""

    name: str
    settings: tuple[Mapping[str, Any], ...]
    """Flat configurations without what decides no results."""
    digests: tuple[str, ...]
    outlines: tuple[Outline, ...]
    read: Read
    is_whole: bool
    """Whether all runs of the plan are there, missing ones included."""
    notes: tuple[str, ...] = ()
    """What a user should know before trusting a comparison of these runs."""

    @property
    def statuses(self) -> Counter[str]:
        """How many runs are complete, diverged, running, failed, missing."""
        return Counter(run.status for run in self.outlines)

    def series_names(self) -> list[str]:
        """Return the scores and costs with one number a round that all runs which have begun have."""
        begun = [{name for name, (_, rank) in run.series.items() if rank == 1} for run in self.outlines if run.series]
        return sorted(set.intersection(*begun)) if begun else []

    def subset(self, numbers: Sequence[int]) -> Source:
        """Return some of the runs."""

        def read(number: int, series: Collection[str], metrics: Collection[str]) -> tuple[Arrays, Arrays]:
            return self.read(numbers[number], series, metrics)

        def chosen(items: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(items[number] for number in numbers)

        return replace(
            self,
            settings=chosen(self.settings), digests=chosen(self.digests), outlines=chosen(self.outlines), read=read,
        )  # fmt: skip

    def where(self, conditions: Iterable[str]) -> Source:
        """Return the runs that fit all conditions KEY=VALUE. Raises UserError when there are none."""
        found = self
        for condition in conditions:
            key, equals, text = condition.partition("=")
            value = parse_yaml(text, f"--where {condition}", tell_line=False) if equals else None
            varying = [name for factor in find_factors(self.settings, with_seeds=True) for name in factor.keys]
            known = sorted({name for settings in found.settings for name in settings})
            # an end of a key is meant for one that varies, where there is such a one
            meant = [name for name in varying if f".{name}".endswith(f".{key}")]
            key = full_key(key, meant or known, f"--where {condition}")
            kept = [number for number, one in enumerate(found.settings) if _fits(one.get(key), value, key)]
            if not equals or not kept:
                values = list(dict.fromkeys(show_value(settings.get(key)) for settings in found.settings))
                raise UserError(f"--where {condition}: fits no run; {key} is {_some(values, 10)}")
            found = found.subset(kept)
        return found

    def warnings(self) -> list[str]:
        """Return lines about what is not there, and about results of different programs."""
        lines = [*self.notes, *different_programs(self.outlines)]
        unfinished = {status: count for status, count in self.statuses.items() if status not in FINISHED}
        if unfinished:
            counts = ", ".join(f"{count} {status}" for status, count in sorted(unfinished.items()))
            lines.append(f"{counts} of {len(self.digests)} runs")
        failures = [(digest, run.reason) for digest, run in zip(self.digests, self.outlines, strict=True) if run.reason]
        lines += [f"failed: {digest}: {reason}" for digest, reason in failures[:_MAX_LISTED]]
        return lines


def different_programs(runs: Iterable[Outline]) -> list[str]:
    """Return lines about results that different programs have computed."""
    runs, lines = list(runs), []
    for what in ("commit", "version_ppfl", "version_torch"):
        values = {str(run.provenance[what]) for run in runs if what in run.provenance}
        lines += [f"the results are of different {what}: {_some(sorted(values))}"] if len(values) > 1 else []
    lines += _different_plug_ins(runs)
    versions = {str(run.attrs["results_version"]) for run in runs if "results_version" in run.attrs}
    if len(versions) > 1:
        lines.append(f"the results are of different results_version, do not compare: {_some(sorted(versions))}")
    return lines


def _different_plug_ins(runs: Iterable[Outline]) -> list[str]:
    """Tell plug-ins from outside that have changed from one run to another: settings do not show it."""
    told = {one for run in runs for one in str(run.provenance.get(PLUG_INS, "")).split(", ") if one}
    counts = Counter(one.partition(" ")[0] for one in told)
    return [
        f"the results are of different versions of plug-in {key}, do not compare"
        for key, count in sorted(counts.items())
        if count > 1
    ]


def _fits(value: Any, wanted: Any, key: str) -> bool:
    """Whether a value is the one that was asked for; 10 means 10.0 where a key takes numbers of one kind alone."""
    from ppfl.config.run import takes_both_kinds

    if {type(value), type(wanted)} == {int, float} and not takes_both_kinds(key.rsplit(".", 1)[-1]):
        return bool(value == wanted)
    return same(value, wanted)


def full_key(given: str, known: Sequence[str], where: str) -> str:
    """Return the one of the known keys that ends like this. Raises UserError with those that are allowed."""
    matches = [key for key in known if key == given] or [key for key in known if f".{key}".endswith(f".{given}")]
    if len(matches) != 1:
        what = "fits several keys" if matches else "no such key"
        raise UserError(f"{where}: {what}; allowed: {', '.join(matches or known)}")
    return matches[0]


def open_source(path: Path, results: Path | None = None, overrides: Sequence[str] = ()) -> Source:
    """Return the runs of a configuration file, of a folder of results, of one result or of a collected file.

    `results` is the folder of the results of a configuration, `overrides` what replaces values of it. Raises UserError
    for anything else, for these two without a configuration, and for results of several experiments in one folder.
    """
    is_folder = path.is_dir()
    if not is_folder and not path.exists():
        raise UserError(f"{path}: not found; allowed: a configuration (.yaml), a folder of results, a .h5 file")
    if not is_folder and path.suffix in (".yaml", ".yml"):
        return _configuration(path, results, overrides)
    refuse_for_results(path, results, overrides)
    if is_folder:
        return _folder(path)
    if is_collection(path):
        return _collection(open_collection(path))
    return results_at([path])


def results_at(paths: Sequence[Path]) -> Source:
    """Return the runs of result files, in this order. Raises UserError when they are not results of one experiment."""
    if not paths:
        raise UserError("a comparison needs at least one result")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file; give the .h5 file that a run wrote")
        if kind_of(path) != FILE_KIND:
            raise UserError(f"{path}: is no result of ppfl; give the .h5 file that a run wrote")
    return _files(paths)


def _configuration(path: Path, results: Path | None, overrides: Sequence[str]) -> Source:
    plan = planned(path, overrides, results)
    outs, cells = list(plan), {cell.digest: cell for cell in plan.values()}
    name = next(iter(cells.values())).config.name
    outlines = tuple(map(outline, outs))
    for out, digest, found in zip(outs, cells, outlines, strict=True):
        # a file that was copied or renamed by hand: its name is no proof of what is in it
        if found.has_file and found.attrs["digest"] != digest:
            raise UserError(f"{out}: holds run {found.attrs['digest']} and not the one of its name; move it away")
    settings = tuple(_settings(cell.config.model_dump(mode="json")) for cell in cells.values())
    notes: tuple[str, ...] = ()
    if all(found.status == MISSING for found in outlines):
        notes = (f"{outs[0].parent} has none of the results; --results says where they are",)
    return Source(name, settings, tuple(cells), outlines, _reader(outs), is_whole=True, notes=notes)


def _folder(folder: Path) -> Source:
    files = [path for path in sorted(folder.glob("*.h5")) if path.name[0] != "." and not _ASIDE.search(path.name)]
    kinds = {path: kind_of(path) for path in files}
    paths = [path for path in files if kinds[path] == FILE_KIND]
    # "no result of ours" and "may not be read" look alike until the system is asked why
    closed = {path: why for path in files if kinds[path] is None and (why := why_unreadable(path))}
    if not paths and closed:
        raise UserError(f"{next(iter(closed))}: cannot be read: {next(iter(closed.values()))}")
    if not paths:
        raise UserError(f"{folder}: has no results (.h5) in it; give the folder that ppfl wrote to, or a configuration")
    foreign = [path.name for path in files if kinds[path] is None and path not in closed]
    notes = [f"left out, no results: {_some(foreign)}"] if foreign else []
    if closed:
        notes.append(f"left out, cannot be read: {_some([f'{path.name} ({why})' for path, why in closed.items()])}")
    bare = [
        path
        for path in folder.glob("*.h5.failed.json")
        if path.with_name(path.name[: -len(".failed.json")]) not in kinds
    ]
    if bare:
        notes.append(f"{len(bare)} failed without a result; give the configuration to see them in their places")
    source = _files(paths)
    return replace(source.subset(_in_order(source.settings)), notes=(*source.notes, *notes))


def _files(paths: Sequence[Path]) -> Source:
    found_at = {path: outline(path) for path in paths}
    damaged = [path for path, found in found_at.items() if not found.has_file]
    if len(damaged) == len(paths):
        raise UserError(f"{damaged[0]}: {found_at[damaged[0]].reason}")
    paths = [path for path in paths if path not in damaged]
    # outlines alone, a few kB each: numbers of thousands of results are read when they are asked for
    outlines = [found_at[path] for path in paths]
    notes = (f"left out, damaged: {_some([path.name for path in damaged])}",) if damaged else ()
    settings, names, digests = [], [], []
    for path, found in zip(paths, outlines, strict=True):
        config = stored_config(found.attrs.pop("config"), path)
        settings.append(_settings(config))
        names.append(str(found.attrs["name"]))
        digests.append(str(found.attrs["digest"]))
    if len(set(names)) > 1:
        raise UserError(
            f"{paths[0].parent}: holds results of several experiments: {_some(sorted(set(names)))}; keep them apart"
        )
    twice = [digest for digest, count in Counter(digests).items() if count > 1]
    if twice:
        same = [path.name for path, digest in zip(paths, digests, strict=True) if digest == twice[0]]
        raise UserError(f"{paths[0].parent}: {_some(same)} hold the same run; keep one of them")
    read = _reader(paths)
    return Source(names[0], tuple(settings), tuple(digests), tuple(outlines), read, is_whole=False, notes=notes)


def _collection(found: Collected) -> Source:
    return Source(found.name, found.settings, found.digests, found.outlines, found.read, is_whole=True)


def _reader(paths: Sequence[Path]) -> Read:
    def read(number: int, series: Collection[str], metrics: Collection[str]) -> tuple[Arrays, Arrays]:
        try:
            return read_numbers(paths[number], series, metrics)
        except (OSError, DamagedError) as error:
            raise UserError(f"{paths[number]}: cannot be read any more ({error}); try again") from error

    return read


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    from ppfl.config.run import Config

    return flatten({key: value for key, value in config.items() if Config.decides_results(key)})


def _in_order(settings: Sequence[Mapping[str, Any]]) -> list[int]:
    """Sort runs by what varies, since names of files say nothing."""
    keys = [key for factor in find_factors(settings, with_seeds=True) for key in factor.keys]

    def rank(run: int) -> list[tuple[bool, float, str]]:
        values = [settings[run].get(key) for key in keys]
        return [
            (False, float(value), "") if isinstance(value, int | float) else (True, 0.0, str(value)) for value in values
        ]

    return sorted(range(len(settings)), key=rank)


def _some(texts: Sequence[str], most: int = _MAX_LISTED) -> str:
    return ", ".join(texts[:most]) + (f", … ({len(texts)})" if len(texts) > most else "")
