"""Logs of runs: `logs/<name of the result>/try-<n>.log` in the folder of the result, one an attempt, whoever starts it.

They belong to the run: what the workflow, a batch system or a terminal does with what a job prints does not touch them.
The last `KEPT_TRIES` stay.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from ppfl.results.layout import log_folder

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

KEPT_TRIES = 20
_NAME = re.compile(r"try-(\d+)\.log")


def tries(result: Path) -> dict[int, Path]:
    """Return {number: log} of the attempts at a run, in their order."""
    return tries_in(log_folder(result))


def tries_in(folder: Path) -> dict[int, Path]:
    """Return {number: log} of the attempts in a folder of logs."""
    try:
        found = {int(match[1]): path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    except OSError:
        return {}
    return dict(sorted(found.items()))


class RunLog:
    """The log of a new attempt. A disk that refuses it does not end the run: then nothing is written."""

    def __init__(self, result: Path) -> None:
        self._file: TextIO | None = None
        self.number = 0
        folder = log_folder(result)
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            before = tries_in(folder)
            self.number = max(before, default=0) + 1
            # "x": two attempts of one number, by a shared folder that lists late, must not write into one log
            self._file = (folder / f"try-{self.number}.log").open("x", encoding="utf-8", errors="backslashreplace")
            for path in list(before.values())[: -(KEPT_TRIES - 1)]:
                path.unlink(missing_ok=True)

    def write(self, text: str) -> None:
        """Write, to be read at once."""
        if self._file is not None:
            with suppress(OSError):
                self._file.write(text)
                self._file.flush()

    def flush(self) -> None:
        """Do nothing: `write` does it."""

    def close(self) -> None:
        """End the log; may be called more than once."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
