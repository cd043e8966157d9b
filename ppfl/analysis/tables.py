"""What the report says about runs, as text: statuses, final metrics by stage, provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppfl.analysis.factors import find_factors, flatten, is_seed, texts_of
from ppfl.core.errors import in_one_line
from ppfl.results.layout import SECONDS_SHARED_BY

if TYPE_CHECKING:
    from ppfl.results.reader import Result

SERIES = ("operator_norm", "distance")
"""Scores of θ at the last evaluated round; everything else is told by stage."""
STATUS_TEXT = {"complete": "complete", "diverged": "diverged", "running": "incomplete", "failed": "incomplete"}


@dataclass(frozen=True)
class Table:
    """Rows of text; `groups` are headings (title, number of columns) above `header`."""

    groups: tuple[tuple[str, int], ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    statuses: tuple[str, ...]


def runs_table(results: Sequence[Result]) -> Table:
    """One row a run: what varies, how it ended, final metrics (mean over clients, by stage), seconds."""
    keys = varying_keys(results)
    flat = [flatten(result.config) for result in results]
    series = [name for name in SERIES if any(name in result.rounds for result in results)]
    metrics = list(dict.fromkeys(str(name) for result in results for name in result.summary.data_vars))
    stages = list(dict.fromkeys(stage for result in results for stage in stages_of(result)))
    columns = [(metric, stage) for metric in metrics for stage in stages]
    rows = []
    varying = list(zip(*(texts_in_column([config.get(key) for config in flat]) for key in keys), strict=True))
    for result, values in zip(results, varying or [()] * len(results), strict=True):
        rows.append(
            (
                str(result.attrs["digest"])[:8],
                *values,
                STATUS_TEXT[str(result.attrs["status"])],
                str(_last(result, "round", "–")),
                *(_last(result, name, "–") for name in series),
                *(_final(result, metric, stage) for metric, stage in columns),
                _seconds(result),
            )
        )
    groups = [("run", 3 + len(keys)), *((("last round", len(series)),) if series else ())]
    groups += [(metric.replace("_", " "), len(stages)) for metric in metrics]
    header = ("digest", *keys, "status", "rounds", *(name.replace("_", " ") for name in series))
    header += (*(stage for _, stage in columns), "seconds")
    statuses = tuple(STATUS_TEXT[str(result.attrs["status"])] for result in results)
    return Table((*groups, ("", 1)), header, tuple(rows), statuses)


def varying_keys(results: Sequence[Result]) -> list[str]:
    """Return the keys that differ between runs, seeds last."""
    configs = [result.config for result in results]
    keys = [key for factor in find_factors(configs) for key in factor.keys]
    flat = [flatten(config) for config in configs]
    seeds = [key for key in flat[0] if is_seed(key) and len({str(config.get(key)) for config in flat}) > 1]
    return keys + seeds


def provenance_rows(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return (what, value), the values of several runs joined where they differ."""
    names = list(dict.fromkeys(name for result in results for name in result.provenance))
    rows = []
    for name in names:
        values = list(dict.fromkeys(text_of(result.provenance.get(name)) for result in results))
        shown = ", ".join(values[:3]) + (f", … ({len(values)} values)" if len(values) > 3 else "")
        rows.append((name, shown))
    return rows


def stages_of(result: Result) -> list[str]:
    """Return the stages that a result was scored in; none while it is incomplete."""
    return [str(stage) for stage in result.summary["stage"].to_numpy()] if "stage" in result.summary.coords else []


def number(value: float, metric: str = "") -> str:
    """Return four significant digits; accuracies, and success of backdoors, in percent."""
    if math.isnan(value):
        return "–"
    if metric.endswith(("accuracy", "backdoor_success")):
        return f"{100 * value:.2f} %"
    return f"{value:.4g}"


def _final(result: Result, metric: str, stage: str) -> str:
    if metric not in result.summary or stage not in stages_of(result):
        return "–"
    return number(float(result.summary[metric].sel(stage=stage, statistic="mean")), metric)


def _last(result: Result, name: str, absent: str) -> str:
    if name not in result.rounds or not result.rounds.sizes["round"]:
        return absent
    return number(float(result.rounds[name].to_numpy()[-1]))


def _seconds(result: Result) -> str:
    """Return the seconds of the rounds; of runs that were computed together, and share them equally, that too."""
    shared_by = result.provenance.get(SECONDS_SHARED_BY)
    return _last(result, "seconds", "–") + (f" (share of {shared_by} runs)" if shared_by else "")


def texts_in_column(values: Sequence[object]) -> list[str]:
    """Return the values of a key as tables show them, different ones differently."""
    return texts_of(values, text_of)


def text_of(value: object) -> str:
    """Return a value of a configuration as tables show it."""
    if value is None:
        return "–"
    if isinstance(value, list | dict):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else in_one_line(str(value))
