"""How far a transfer is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from types import TracebackType

_SECONDS = 5.0
"""Between lines."""


class Transfer:
    """Writes to standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: tuple[str, Any] = ("", None)
        self._last_at = time.monotonic()

    def __enter__(self) -> Transfer:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            # names of files are no markup
            columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, text: str) -> None:
        """Write a line."""
        if self._bar is None:
            click.echo(f"ppfl: {text}", err=True)
        else:
            self._bar.console.print(f"ppfl: {text}", markup=False, highlight=False, soft_wrap=True)

    def update(self, what: str, done: int, total: int | None, unit: str) -> None:
        """Move the bar, or write a line unless the last one is too recent."""
        if self._bar is not None:
            if self._task[0] != what:
                self._task = what, self._bar.add_task(what, total=total)
            self._bar.update(self._task[1], completed=done, total=total)
        elif time.monotonic() - self._last_at > _SECONDS:
            self._last_at = time.monotonic()
            self.tell(f"{what}: {done:,}{f' of {total:,}' if total is not None else ''} {unit}")
