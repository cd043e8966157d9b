"""How far a run is: a bar on a terminal, now and then a line in a log file, nothing on other ranks."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_INTERVAL_SECONDS = 5.0
_SHOWN = {"scoring": "scoring …", "final_stages": "final stages …", "checkpoints": "saving a checkpoint …"}
_MAIN_METRICS = ("operator_norm", "test_accuracy", "loss")


class Stream(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> object:
        """Write a text."""
        ...

    def flush(self) -> None:
        """Have it written now."""
        ...


class Progress(Protocol):
    """Told by a run how far it is."""

    def tell(self, text: str) -> None:
        """Tell what the user should know, in a line."""
        ...

    def start(self, total_rounds: int, first_round: int = 0) -> None:
        """Begin, at a round other than 0 when a run goes on; called once."""
        ...

    def update(self, round: int, metrics: Mapping[str, float]) -> None:
        """Tell the scores after `round` rounds."""
        ...

    def doing(self, purpose: str) -> None:
        """Tell what begins beside rounds, e.g. scoring; `update` or `finish` comes after it."""
        ...

    def finish(self, status: str, out: Path) -> None:
        """End with a status; called once, after the result is written."""
        ...


class Silent:
    """Says nothing: ranks other than 0, and tests."""

    def tell(self, text: str) -> None:
        """Say nothing."""

    def start(self, total_rounds: int, first_round: int = 0) -> None:
        """Say nothing."""

    def update(self, round: int, metrics: Mapping[str, float]) -> None:
        """Say nothing."""

    def doing(self, purpose: str) -> None:
        """Say nothing."""

    def finish(self, status: str, out: Path) -> None:
        """Say nothing."""


class Lines:
    """Plain lines, at most one every 5 seconds, and the last."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._total_rounds = 0
        self._last_line_at = float("-inf")
        self._first_round = 0
        self._started_at = 0.0
        self._latest = ""

    def tell(self, text: str) -> None:
        """Write it at once."""
        self._write(text)

    def start(self, total_rounds: int, first_round: int = 0) -> None:
        """Begin to count time; say where a run goes on."""
        self._total_rounds, self._first_round = total_rounds, first_round
        self._started_at = time.monotonic()
        if first_round:
            self._write(f"goes on at round {first_round} of {total_rounds}")

    def update(self, round: int, metrics: Mapping[str, float]) -> None:
        """Write a line unless the last one is too recent."""
        now = time.monotonic()
        elapsed = now - self._started_at
        done = round - self._first_round
        left = f", {elapsed / done * (self._total_rounds - round):.0f} s left" if done else ""
        self._latest = f"round {round}/{self._total_rounds}{show_metric(metrics)}{left}"
        if now - self._last_line_at >= LINE_INTERVAL_SECONDS:
            self._last_line_at = now
            self._write(self._latest)
            self._latest = ""

    def doing(self, purpose: str) -> None:
        """Write a line about what may take long after the last round."""
        if purpose == "final_stages":
            self._write(f"{self._latest or 'rounds are done'}, {_SHOWN[purpose]}")
            self._latest = ""

    def finish(self, status: str, out: Path) -> None:
        """Write the last line."""
        if self._latest:
            self._write(self._latest)
        self._write(f"{status} after {time.monotonic() - self._started_at:.1f} s")

    def _write(self, line: str) -> None:
        self._stream.write(f"ppfl: {line}\n")
        self._stream.flush()


class Both:
    """Tells two."""

    def __init__(self, first: Progress, second: Progress) -> None:
        self._all = (first, second)

    def tell(self, text: str) -> None:
        """Tell both."""
        for one in self._all:
            one.tell(text)

    def start(self, total_rounds: int, first_round: int = 0) -> None:
        """Tell both."""
        for one in self._all:
            one.start(total_rounds, first_round)

    def update(self, round: int, metrics: Mapping[str, float]) -> None:
        """Tell both."""
        for one in self._all:
            one.update(round, metrics)

    def doing(self, purpose: str) -> None:
        """Tell both."""
        for one in self._all:
            one.doing(purpose)

    def finish(self, status: str, out: Path) -> None:
        """Tell both."""
        for one in self._all:
            one.finish(status, out)


class Bar:
    """A bar with round, main metric and the time left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def tell(self, text: str) -> None:
        """Write a line above the bar."""
        if self._bar is None:
            self._stream.write(f"ppfl: {text}\n")
        else:
            self._bar.console.print(f"ppfl: {text}", markup=False, highlight=False, soft_wrap=True)

    def start(self, total_rounds: int, first_round: int = 0) -> None:
        """Show the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(file=self._stream),
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=total_rounds, completed=first_round)

    def update(self, round: int, metrics: Mapping[str, float]) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=round, description=show_metric(metrics).removeprefix(", "))

    def doing(self, purpose: str) -> None:
        """Show it in the place of the metric."""
        if self._bar is not None and self._task is not None and purpose in _SHOWN:
            self._bar.update(self._task, description=_SHOWN[purpose])

    def finish(self, status: str, out: Path) -> None:
        """Leave the bar where it is."""
        self.close()

    def close(self) -> None:
        """Give the terminal back; may be called more than once."""
        if self._bar is not None:
            self._bar.stop()


def show_metric(metrics: Mapping[str, float]) -> str:
    """Return ", name value" of the metric that tells most, or nothing when there is none."""
    name = next((name for name in (*_MAIN_METRICS, *metrics) if name in metrics), None)
    return f", {name} {metrics[name]:.4g}" if name else ""


def choose_progress(rank: int, stream: TextIO | None = None) -> Silent | Lines | Bar:
    """Return what fits: a bar when rank 0 writes to a terminal, lines when to a file."""
    stream = stream or sys.stderr
    if rank != 0:
        return Silent()
    return Bar(stream) if stream.isatty() else Lines(stream)


class _Warnings(logging.Handler):
    """Writes notices and warnings to standard error as it is now, so that they do not tear a bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(_line(record))


def _line(record: logging.LogRecord) -> str:
    level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
    return f"ppfl: {level}{' '.join(record.getMessage().split())}\n"


class WarningsTo(logging.Handler):
    """Writes notices and warnings of the library to a stream, too, while it is entered."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self._stream.write(_line(record))

    def __enter__(self) -> None:
        logging.getLogger("ppfl").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("ppfl").removeHandler(self)


def show_warnings(rank: int) -> None:
    """Show the notices and warnings of the library on rank 0, each once."""
    logger = logging.getLogger("ppfl")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Warnings() if rank == 0 else logging.NullHandler()]
    logger.propagate = False
