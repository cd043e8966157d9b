"""A survey as text: counts first, then the runs that somebody may want to do something about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rich.console import RenderableType

    from ppfl.jobs.states import Kind
    from ppfl.status.survey import Survey

_MAX_ROWS = 20


def counts_line(survey: Survey) -> str:
    """Return e.g. "12 runs: 7 done, 2 running, 3 missing (results/steps)"."""
    parts = [f"{count} {kind}" for kind, count in survey.counts.items() if count]
    return f"{len(survey.states)} runs: {', '.join(parts) or 'none'} ({survey.runs.folder})"


def render(survey: Survey) -> RenderableType:
    """Return the counts, jobs of Slurm, and tables of running, failed, stale and stopped runs."""
    parts: list[RenderableType] = [Text(counts_line(survey))]
    parts += [Text(f"job {job.id} ({job.title}), for all of them: {job}") for job in survey.jobs_of_all]
    shown: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("running", ("run", "round", "rounds/s", "left", "host", "job", "last seen")),
        ("failed", ("run", "reason", "rank", "round", "host", "when")),
        ("stale", ("run", "round", "host", "job")),
        ("stopped", ("run", "goes on at")),
    )
    if survey.queued:
        parts += _queued(survey)
    for kind, columns in shown:
        runs = [(out, state.facts) for out, state in survey.states.items() if state.kind == kind]
        if not runs:
            continue
        if not any("last_seen" in facts for _, facts in runs):
            columns = tuple(column for column in columns if column != "last seen")
        table = Table(*columns, title=kind, title_justify="left", title_style="bold")
        for out, facts in runs[:_MAX_ROWS]:
            row = _row(survey.runs.cells[out] or out.stem, facts)
            table.add_row(*(Text(row.get(column, "")) for column in columns))
        parts.append(table)
        if len(runs) > _MAX_ROWS:
            parts.append(Text(f"and {len(runs) - _MAX_ROWS} more {kind} (all of them: --json)"))
    return Group(*parts)


def _queued(survey: Survey) -> list[RenderableType]:
    table = Table(
        "run", "is", "goes on at", "job", "Slurm says", title="queued", title_justify="left", title_style="bold"
    )
    queued = list(survey.queued.items())
    for out, job in queued[:_MAX_ROWS]:
        state = survey.states[out]
        row = _row(survey.runs.cells[out] or out.stem, state.facts)
        table.add_row(*map(Text, (row["run"], state.kind, row.get("goes on at", ""), job.id, str(job))))
    more = [Text(f"and {len(queued) - _MAX_ROWS} more queued (all of them: --json)")]
    return [table, *(more if len(queued) > _MAX_ROWS else [])]


def _row(name: str, facts: Mapping[str, Any]) -> dict[str, str]:
    row = {column: str(facts[column]) for column in ("host", "job", "rank", "when") if facts.get(column) is not None}
    row["run"] = name
    row["last seen"] = str(facts.get("last_seen", ""))
    row["reason"] = (str(facts.get("reason", "")).splitlines() or [""])[0]
    for key, column in (("round", "round"), ("goes_on_from", "goes on at")):
        if facts.get(key) is not None:
            row[column] = f"{facts[key]}/{facts['rounds']}" if "rounds" in facts else str(facts[key])
    if facts.get("rounds_per_second"):
        row["rounds/s"] = f"{facts['rounds_per_second']:.3g}"
    if facts.get("seconds_left") is not None:
        row["left"] = show_seconds(float(facts["seconds_left"]))
    return row


def show_seconds(seconds: float) -> str:
    """Return "45 s", "12 min" or "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
