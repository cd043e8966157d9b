"""The status of a grid for as long as somebody works on it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from ppfl.status.view import counts_line, render

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from ppfl.status.survey import Runs, Survey

INTERVAL_SECONDS = 2.0


def watch(runs: Runs, console: Console) -> None:
    """Show the status until nobody is at work any more.

    On a terminal one live picture; elsewhere a line whenever the counts have changed, and the tables at the end.
    """
    # a live picture is made of commands to a terminal, which would fill a log file
    if not sys.stdout.isatty():
        console.print(render(_follow(runs, _lines(console))))
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        _follow(runs, lambda survey: live.update(render(survey), refresh=True))


def _follow(runs: Runs, show: Callable[[Survey], None]) -> Survey:
    while True:
        survey = runs.survey()
        show(survey)
        if survey.is_at_rest:
            return survey
        time.sleep(INTERVAL_SECONDS)


def _lines(console: Console) -> Callable[[Survey], None]:
    said = [""]

    def show(survey: Survey) -> None:
        line = counts_line(survey)
        if line != said[0]:
            said[0] = line
            console.print(line, highlight=False)
            console.file.flush()

    return show
