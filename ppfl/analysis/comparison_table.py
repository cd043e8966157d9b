"""`ppfl table`: what varies and final metrics, one row a configuration; seeds become a median and a range.

Or, over the values of one dimension such as attacks, the worst of their means over seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from statistics import fmean

import numpy as np

from ppfl.analysis.curves import METRICS
from ppfl.analysis.dimensions import short_names
from ppfl.analysis.factors import find_factors, is_seed
from ppfl.analysis.shared_seconds import SHARED, check_seconds
from ppfl.analysis.sources import Source
from ppfl.analysis.worst import split_worst
from ppfl.core.errors import UserError
from ppfl.results.client_scores import larger_is_better

LAST, BEST = "last", "best"
MEAN = "mean"
_STAGED = "test_accuracy"


@dataclass(frozen=True)
class Score:
    """One metric over the complete runs of a row; nan when there are none."""

    middle: float
    """The median; of the worst of several values the mean."""
    lowest: float
    highest: float
    num_runs: int
    num_diverged: int = 0
    """Where the worst is shown: runs of that value that have diverged, which makes it the worst."""
    worst: str = ""
    """Which value that is, or which values are equally bad; empty where none is known."""


@dataclass(frozen=True)
class Metric:
    """A column: a series at some round, or a final metric in one stage, as a statistic over clients."""

    name: str
    stage: str | None
    statistic: str = MEAN

    @property
    def title(self) -> str:
        """Heading of the column."""
        words = [self.name, self.stage or "", "" if self.statistic == MEAN else self.statistic]
        return " ".join(filter(None, words))


@dataclass(frozen=True)
class ComparisonTable:
    """`rows` are (what varies as values, status in words, scores)."""

    keys: tuple[str, ...]
    metrics: tuple[Metric, ...]
    at: str
    rows: tuple[tuple[tuple[object, ...], str, tuple[Score, ...]], ...]
    notes: tuple[str, ...]
    """What a user must know before comparing the numbers."""
    worst_of: str = ""
    """The dimension of whose values each score is the worst; empty where there is none."""


def compare(
    source: Source,
    metrics: Sequence[str] = (),
    at: str | None = None,
    *,
    seeds: bool = False,
    statistic: str = MEAN,
    worst: str | None = None,
) -> ComparisonTable:
    """Tabulate the runs of a source.

    `at` is last, best (lowest, of accuracies and what else is better then highest) or a round; None takes metrics by
    stage where they have stages, else the last round. Only complete runs are in scores. `seeds` gives each run a row;
    `statistic` is what of final metrics over clients is shown, such as q10. `worst` is a key, or a section, that is no
    column then: of its values the one with the worst mean over seeds is shown, and one with diverged runs is worse than
    any without. Raises UserError when a metric, a round, a statistic or such a key is not there.
    """
    columns = _columns(source, metrics, at)
    if statistic != MEAN:
        columns = [_of_statistic(source, column, statistic) for column in columns]
    seconds = next((column.name for column in columns if column.name in SHARED), "")
    notes = check_seconds(source, [seconds], f"--metric {seconds}")
    factors = find_factors(source.settings, with_seeds=seeds)
    factors.sort(key=lambda factor: all(map(is_seed, factor.keys)))
    values_of_worst: tuple[str, ...] | None = None
    if worst is not None:
        factors, values_of_worst = split_worst(factors, worst, source.settings)
        notes = [*notes, *_notes_on_worst(source, worst, values_of_worst)]
    # of seeds that are always the same one will do
    keys = [key for factor in factors for key in (factor.keys[:1] if all(map(is_seed, factor.keys)) else factor.keys)]
    groups: dict[tuple[str, ...], list[int]] = {}
    for run in range(len(source.digests)):
        groups.setdefault(tuple(factor.labels[run] for factor in factors), []).append(run)
    scores = _scores_of_all(source, columns, at)
    names = short_names(keys, frozenset(), source.settings)
    rows = []
    for runs in groups.values():
        values = tuple(source.settings[runs[0]].get(key) for key in keys)
        found = [[row[column] for row in scores] for column in range(len(columns))]
        if values_of_worst is None:
            summary = tuple(_score([numbers[run] for run in runs]) for numbers in found)
        else:
            pairs = zip(found, columns, strict=True)
            summary = tuple(_worst(source, runs, numbers, values_of_worst, column.name) for numbers, column in pairs)
        rows.append((values, _status([source.outlines[run].status for run in runs]), summary))
    rows.sort(key=lambda row: [_rank(value) for value in row[0]])
    titles = tuple(names[key] for key in keys)
    return ComparisonTable(titles, tuple(columns), at or LAST, tuple(rows), tuple(notes), worst or "")


def _scores_of_all(source: Source, columns: Sequence[Metric], at: str | None) -> list[list[float]]:
    """Return a row of numbers a run. Raises UserError when no complete run was evaluated at a round."""
    scores = [_scores(source, run, columns, at or LAST) for run in range(len(source.digests))]
    if at is not None and at.isdigit() and not any(isfinite(value) for row in scores for value in row):
        rounds = sorted({int(number) for run in source.outlines for number in run.rounds})
        allowed = ", ".join(map(str, rounds[:5])) + (f", … {rounds[-1]}" if len(rounds) > 5 else "")
        raise UserError(f"--at {at}: no complete run was evaluated there; allowed: {allowed or 'none yet'}, last, best")
    return scores


def _columns(source: Source, metrics: Sequence[str], at: str | None) -> list[Metric]:
    series = source.series_names()
    final = list(dict.fromkeys(name for run in source.outlines for name in run.summary))
    stages = list(dict.fromkeys(stage for run in source.outlines for stage in run.stages))
    if not metrics:
        is_staged = "operator_norm" not in series and _STAGED in final
        metrics = [_STAGED] if is_staged else [name for name in METRICS if name in series][:1]
    columns = []
    for name in metrics:
        if name in final and at is None:
            columns += [Metric(name, stage) for stage in stages]
        elif name in series:
            columns.append(Metric(name, None))
        else:
            allowed = ", ".join(dict.fromkeys([*series, *(final if at is None else [])])) or "none yet"
            raise UserError(f"--metric {name}: the runs have no such metric; allowed: {allowed}")
    return columns


def _of_statistic(source: Source, column: Metric, statistic: str) -> Metric:
    """Return the column of another statistic than the mean."""
    known = list(dict.fromkeys(name for run in source.outlines for name in run.statistics))
    if column.stage is None:
        raise UserError(
            f"--statistic {statistic}: of {column.name} there is a mean at each round alone; allowed: {MEAN}"
        )
    if statistic not in known:
        raise UserError(f"--statistic {statistic}: no such statistic; allowed: {', '.join(known)}")
    return replace(column, statistic=statistic)


def _scores(source: Source, run: int, columns: Sequence[Metric], at: str) -> list[float]:
    """Return one number a column; nan for a run that is not complete."""
    if source.outlines[run].status != "complete":
        return [nan] * len(columns)
    names = {column.name for column in columns}
    series, final = source.read(run, {"round", *names}, names)
    stages = list(source.outlines[run].stages)
    statistics = list(source.outlines[run].statistics)
    found = []
    for column in columns:
        if column.stage is None:
            found.append(_at(series["round"], series[column.name], column.name, at))
        elif column.name in final and column.stage in stages:
            place = stages.index(column.stage), statistics.index(column.statistic)
            found.append(float(final[column.name][place]))
        else:
            found.append(nan)
    return found


def _at(rounds: np.ndarray, values: np.ndarray, name: str, at: str) -> float:
    if at == LAST:
        return float(values[-1])
    if at == BEST:
        return float(np.nanmax(values) if larger_is_better(name) else np.nanmin(values))
    place = np.flatnonzero(rounds == int(at))
    return float(values[place[0]]) if place.size else nan


def _score(values: Sequence[float]) -> Score:
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return Score(nan, nan, nan, 0)
    return Score(float(np.median(known)), min(known), max(known), len(known))


def _worst(source: Source, runs: Sequence[int], found: Sequence[float], values: Sequence[str], metric: str) -> Score:
    """Return the score of the worst of the values that some runs have: mean, lowest and highest over their seeds.

    Of a value with diverged runs these are over the others; the one with the largest part of them is the worst.
    """
    sign = 1.0 if larger_is_better(metric) else -1.0
    ranked = []
    for value in dict.fromkeys(values[run] for run in runs):
        members = [run for run in runs if values[run] == value]
        known = [found[run] for run in members if not np.isnan(found[run])]
        diverged = sum(source.outlines[run].status == "diverged" for run in members)
        if not known and not diverged:
            continue
        mean = fmean(known) if known else nan
        part = diverged / (diverged + len(known))
        lowest, highest = (min(known), max(known)) if known else (nan, nan)
        ranked.append(
            ((-part, sign * mean if known else 0.0), Score(mean, lowest, highest, len(known), diverged, value))
        )
    if not ranked:
        return Score(nan, nan, nan, 0)
    rank, score = min(ranked, key=lambda one: one[0])
    # all that are equally bad, such as those of which every run has diverged; numbers are of the first
    return replace(score, worst=", ".join(other.worst for its_rank, other in ranked if its_rank == rank))


def _notes_on_worst(source: Source, given: str, values: Sequence[str]) -> list[str]:
    """Say how the worst is found, and which values cannot be it for want of runs."""
    levels = list(dict.fromkeys(values))
    shown = ", ".join(levels[:8]) + (", …" if len(levels) > 8 else "")
    how = "by their means over seeds; a value with diverged runs is worse than any without"
    notes = [f"--worst {given}: the worst of {len(levels)} values ({shown}) {how}"]
    ended = ("complete", "diverged")
    lacking = Counter(values[run] for run, outline in enumerate(source.outlines) if outline.status not in ended)
    if lacking:
        some = ", ".join(f"{number} of {value}" for value, number in lacking.items())
        notes.append(f"--worst {given}: runs without a result do not count, and the worst may be among them: {some}")
    return notes


def _status(statuses: Sequence[str]) -> str:
    counts = Counter(statuses)
    if len(statuses) == 1:
        return statuses[0]
    return ", ".join(f"{counts[status]} {status}" for status in sorted(counts))


def _rank(value: object) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, str(value))
