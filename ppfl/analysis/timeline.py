"""The timeline of one run: a row a client, a bar for each thing that it does on the clock."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ppfl.analysis.figure import CATEGORICAL, STYLE
from ppfl.config.grid import choose_cell
from ppfl.config.run import validate
from ppfl.core.errors import UserError
from ppfl.engine.timing import Work, timings
from ppfl.interfaces.network import Fate, Trip
from ppfl.jobs.launcher import open_communicator
from ppfl.results.layout import RESULT_SUFFIX
from ppfl.results.reader import open_result
from ppfl.runs.assemble import build

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from ppfl.config.run import Config
    from ppfl.results.reader import Result

_MOST_CLIENTS = 40
"""Rows that can be read."""
_ROUNDS = 6
_ARRIVALS_A_CLIENT = 6
"""Drawn where nobody says how many."""
_DOWN, _COMPUTE, _UP = CATEGORICAL[4], CATEGORICAL[5], CATEGORICAL[2]
_LOST = CATEGORICAL[1]
_INCHES_A_CLIENT = 0.27
_HEIGHT = 0.72
"""Of a bar, in rows."""


@dataclass(frozen=True)
class History:
    """What clients did, and when the rounds ended."""

    title: str
    names: Sequence[str]
    """Of all clients."""
    work: Sequence[Work]
    ends: Sequence[float]
    """Of rounds; nothing for asynchronous runs."""
    silent: frozenset[int]
    """Rounds in which the server heard too few."""
    has_parts: bool
    """Whether it is known what a client did in its time."""


def history_of(source: Path, overrides: Sequence[str], cell: str | None, rounds: int | None) -> History:
    """Return what happens in the first rounds, or until the first arrivals, of the run of a result or a configuration.

    Raises UserError where a run has no virtual clock, and no log.
    """
    if source.suffix != RESULT_SUFFIX:
        return _timed(choose_cell(source, overrides, cell).config, rounds)
    if overrides or cell is not None:
        raise UserError(f"{source}: is a result; --set and --cell are for configuration files")
    result = open_result(source)
    config = validate(result.config, source.parent, str(source))
    if config.asynchronous is not None and (config.asynchronous.engine == "messages" or config.asynchronous.replay):
        return _logged(config, result, rounds)
    return _timed(config, rounds)


def _timed(config: Config, rounds: int | None) -> History:
    """Return what the clock says."""
    if config.compute_times is None and config.network is None:
        raise UserError("compute_times: a section, or `network`, without which nothing is known of seconds")
    setup = build(config, open_communicator())
    is_asynchronous = config.asynchronous is not None
    wanted = rounds or (_ARRIVALS_A_CLIENT * setup.cohort.size if is_asynchronous else _ROUNDS)
    work: list[Work] = []
    ends: list[float] = []
    silent: set[int] = set()
    for number, found in enumerate(islice(timings(setup), wanted)):
        work += found.work
        ends.append(found.virtual_seconds)
        if found.silent_rounds > len(silent):
            silent.add(number)
    names = setup.problem.client_data.client_names
    return History(config.name, names, work, [] if is_asynchronous else ends, frozenset(silent), has_parts=True)


def _logged(config: Config, result: Result, rounds: int | None) -> History:
    """Return what a log says, which knows of whole jobs alone."""
    log = {name: values.to_numpy() for name, values in result.arrivals.data_vars.items()}
    names = [str(name) for name in result.clients.client.to_numpy()]
    wanted = rounds or _ARRIVALS_A_CLIENT * len(set(log["client"].tolist()))
    columns = (log[name][:wanted].tolist() for name in ("client", "seconds", "turnaround_seconds"))
    work = [
        Work(client, seconds - took, Trip(0.0, took, 0.0, took), seconds)
        for client, seconds, took in zip(*columns, strict=True)
    ]
    return History(config.name, names, work, [], frozenset(), has_parts=False)


def draw_timeline(history: History) -> Figure:
    """Draw it; of many clients those with the lowest numbers."""
    everyone = sorted({work.client for work in history.work})
    shown = everyone[:_MOST_CLIENTS]
    rows = {client: row for row, client in enumerate(shown)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.5 + _INCHES_A_CLIENT * max(len(shown), 4)), layout="constrained")
        axes = figure.subplots()
        for work in history.work:
            if work.client in rows:
                _draw_work(axes, rows[work.client], work)
        for number, end in enumerate(history.ends):
            is_silent = number in history.silent
            axes.axvline(end, color=_LOST if is_silent else "0.35", linewidth=0.9, linestyle=":" if is_silent else "-")
        axes.set_yticks(range(len(shown)), [history.names[client] for client in shown], parse_math=False)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(left=0.0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("virtual seconds" if history.has_parts else "seconds")
        axes.set_ylabel("client")
        axes.set_title(history.title, parse_math=False)
        figure.legend(handles=_legend(history), loc="outside right upper")
        if len(everyone) > len(shown):
            note = f"{len(shown)} of {len(everyone)} clients that were asked"
            figure.supxlabel(note, fontsize=8.5, x=0.01, ha="left")
    return figure


def _draw_work(axes: Axes, row: int, work: Work) -> None:
    """Draw the parts one after another, up to where the server went on; and what is sent back."""
    trip, left = work.trip, work.began
    for seconds, colour in ((trip.down, _DOWN), (trip.compute, _COMPUTE), (trip.up, _UP)):
        # what goes on after the server has given up would lie under the bars of the next round
        right = min(left + seconds, work.ended)
        is_lost_uplink = colour == _UP and trip.fate == Fate.DROPPED
        if right > left and not is_lost_uplink:
            axes.barh(row, right - left, _HEIGHT, left=left, color=colour, edgecolor="white", linewidth=0.4)
        left += seconds
    if trip.fate == Fate.DROPPED:
        at = min(work.began + trip.down + trip.compute, work.ended)
        axes.plot([at], [row], "X", color=_LOST, markersize=6.5, markeredgecolor="white", markeredgewidth=0.5)
    elif trip.fate == Fate.LATE:
        axes.plot([work.ended], [row], ">", color=_LOST, markersize=6.5, markeredgecolor="white", markeredgewidth=0.5)
    if work.answer is not None:
        began, seconds = work.answer
        # half as high: a node may hear of its neighbours while it computes
        half = _HEIGHT / 2
        axes.barh(row + half / 2, seconds, half, left=began, color=_DOWN, edgecolor="white", linewidth=0.4)


def _legend(history: History) -> list[Patch | Line2D]:
    fates = {work.trip.fate for work in history.work}
    if not history.has_parts:
        return [Patch(color=_COMPUTE, label="at work")]
    parts = ((_DOWN, "downloads", "down"), (_COMPUTE, "computes", "compute"), (_UP, "uploads", "up"))
    handles: list[Patch | Line2D] = [
        Patch(color=colour, label=label)
        for colour, label, part in parts
        if any(getattr(work.trip, part) > 0 or (part == "down" and work.answer) for work in history.work)
    ]
    marks = ((Fate.DROPPED, "X", "drops out"), (Fate.LATE, ">", "comes too late"))
    handles += [
        Line2D([], [], color=_LOST, marker=mark, ls="", label=label) for fate, mark, label in marks if fate in fates
    ]
    if history.ends:
        handles.append(Line2D([], [], color="0.35", linewidth=0.9, label="end of a round"))
    if history.silent:
        handles.append(Line2D([], [], color=_LOST, linewidth=0.9, ls=":", label="… without a step"))
    return handles
