"""Work for the children of the scheduler's tests: what a payload says to do."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def make() -> Callable[[Sequence[tuple[str, str]]], Sequence[str | Exception]]:
    """Return work that counts its calls in this process."""
    calls: list[str] = []

    def one(payload: tuple[str, str]) -> str:
        what, where = payload
        calls.append(what)
        if what == "fail":
            raise ValueError("of no use")
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "die once" and not Path(where).exists():
            Path(where).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            sys.exit(3)
        if what == "sleep":
            time.sleep(0.2)
        return f"{os.getpid()} {len(calls)}"

    return lambda payloads: [one(payload) for payload in payloads]
