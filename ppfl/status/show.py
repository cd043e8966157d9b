"""`ppfl show`: a result as readable tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ppfl.config.errors import show_value
from ppfl.results.reader import open_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any

    from rich.console import RenderableType

    from ppfl.results.reader import Result

_STATUS = {
    "complete": "complete",
    "diverged": "diverged: the loss exploded or became NaN",
    "running": "unfinished: still running, or stopped before its end",
}
_PIPE_WIDTH = 160


def wide_console() -> Console:
    """Return a console on standard output; as wide as a terminal, or wide enough for a log file."""
    console = Console()
    # rich takes 80 columns for what is no terminal, and would fold numbers
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def show(path: Path) -> None:
    """Print configuration, final metrics, provenance and status. Raises UserError for a file that is no result."""
    wide_console().print(render(open_result(path)))


def render(result: Result) -> RenderableType:
    """Return everything worth reading."""
    attrs = result.attrs
    status = _STATUS.get(str(attrs["status"]), str(attrs["status"]))
    head = {"file": result.path, "name": attrs["name"], "digest": attrs["digest"], "status": status}
    if result.seconds:
        head["seconds"] = _in_one_line(result.seconds)
    parts: list[RenderableType] = [_pairs("Result", head), _pairs("Configuration", dict(_flat(result.config)))]
    if result.problem:
        parts.append(_pairs("Problem", result.problem))
    parts.append(_last_round(result))
    if result.summary.data_vars:
        parts.append(_summary(result))
    if result.stages.data_vars:
        parts.append(_stage_costs(result))
    parts.append(_pairs("Provenance", result.provenance))
    return Group(*parts)


def _in_one_line(seconds: Mapping[str, float]) -> str:
    """Return the sum of all seconds and what they were spent on, what took none left out."""
    parts = (f"{name.replace('_', ' ')} {value:.3g}" for name, value in seconds.items() if round(value, 3) != 0)
    return f"{sum(seconds.values()):.3g} in all: {', '.join(parts)}"


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else show_value(value)


def _pairs(title: str, pairs: Mapping[str, object]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, Text(f"{value:.6g}" if isinstance(value, float) else str(value)))
    return table


def _last_round(result: Result) -> Table:
    series = {str(name): values for name, values in result.rounds.data_vars.items() if values.dims == ("round",)}
    num_rounds = result.rounds.sizes.get("round", 0)
    if not num_rounds:
        return _pairs("Rounds", {"evaluated": "none yet"})
    rounds = result.rounds["round"].to_numpy()
    table = Table(title=f"Rounds ({num_rounds} evaluated)", title_justify="left")
    for heading in ("", f"round {rounds[0]}", f"round {rounds[-1]}"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, values in series.items():
        table.add_row(name, f"{float(values[0]):.6g}", f"{float(values[-1]):.6g}")
    return table


def _stage_costs(result: Result) -> Table:
    costs = [str(name) for name in result.stages.data_vars]
    table = Table(title="Training for a stage, beside the rounds", title_justify="left")
    for heading in ("stage", *costs):
        table.add_column(heading, justify="right" if heading in costs else "left")
    for stage in result.stages["stage"].to_numpy():
        table.add_row(str(stage), *(f"{float(result.stages[cost].sel(stage=stage)):.6g}" for cost in costs))
    return table


def _summary(result: Result) -> Table:
    held_out = " that train, and over newcomers after some steps" if result.newcomers.sizes else ""
    table = Table(title=f"Final metrics over all clients{held_out}", title_justify="left")
    statistics = [str(value) for value in result.summary["statistic"].to_numpy()]
    for heading in ("metric", "stage", *statistics):
        table.add_column(heading, justify="right" if heading in statistics else "left")
    for metric, values in result.summary.data_vars.items():
        for stage in result.summary["stage"].to_numpy():
            numbers = [f"{float(values.sel(stage=stage, statistic=statistic)):.6g}" for statistic in statistics]
            table.add_row(str(metric), str(stage), *numbers)
    return table
