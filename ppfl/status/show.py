"""`ppfl show`: a result as readable tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ppfl.config.errors import show_value
from ppfl.results.client_scores import worst_tenth
from ppfl.results.reader import open_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import numpy as np
    from rich.console import RenderableType

    from ppfl.results.reader import Result

_STATUS = {
    "complete": "complete",
    "diverged": "diverged: the loss exploded or became NaN",
    "running": "unfinished: still running, or stopped before its end",
}
_PIPE_WIDTH = 160
_WORST = "worst 10 %"
"""Mean over the tenth of clients that fares worst; q10, or of losses q90, is where it ends."""
_HISTORY = "client_"


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
    if result.best_round:
        parts.append(_pairs("Best round", result.best_round))
    parts.append(_last_round(result))
    if history := _of_clients(result):
        parts.append(_history(result, history))
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
    for heading in ("metric", "stage", *statistics, _WORST):
        table.add_column(heading, justify="left" if heading in ("metric", "stage") else "right")
    for metric, values in result.summary.data_vars.items():
        for stage in result.summary["stage"].to_numpy():
            numbers = [f"{float(values.sel(stage=stage, statistic=statistic)):.6g}" for statistic in statistics]
            name = f"{stage}_{metric}"
            worst = _worst(result, str(metric), result.clients[name].to_numpy()) if name in result.clients else ""
            table.add_row(str(metric), str(stage), *numbers, worst)
    return table


def _of_clients(result: Result) -> list[str]:
    """Return the scores whose histories of single clients were kept."""
    names = (str(name) for name in result.rounds.data_vars)
    return [name for name in names if name.startswith(_HISTORY) and name.removeprefix(_HISTORY) in result.rounds]


def _history(result: Result, names: Sequence[str]) -> Table:
    rounds = result.rounds["round"].to_numpy()
    table = Table(title="Worst 10 % of clients", title_justify="left")
    for heading in ("", f"round {rounds[0]}", f"round {rounds[-1]}"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in names:
        metric, values = name.removeprefix(_HISTORY), result.rounds[name].to_numpy()
        table.add_row(metric, *(_worst(result, metric, values[row]) for row in (0, -1)))
    return table


def _worst(result: Result, metric: str, values: np.ndarray) -> str:
    """Return the mean over the worst tenth of honest clients with a score; of main ones where there are such."""
    import numpy as np

    counted = ~np.isnan(values)
    if "byzantine" in result.clients:
        counted &= result.clients["byzantine"].to_numpy() == 0
    if "main" in result.clients:
        counted &= result.clients["main"].to_numpy() == 1
    return f"{worst_tenth(metric, values[counted]).mean:.6g}"
