"""One thread of a process that calls again and again whatever is to be kept fresh.

A pack claims its runs by the dozen, and a thread for each would cost more than the claims.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class Beats:
    """Calls each function that was added, no later than `seconds()` after that and after the call before, until it
    returns False or is removed."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._begin_anew()
        # a forked process has none of our threads, and what is kept fresh is its parent's
        os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        self._changed = threading.Condition()
        self._beats: dict[str, Callable[[], bool]] = {}
        self._is_running = False

    def add(self, name: str, beat: Callable[[], bool]) -> None:
        """Begin to call a function, in another thread."""
        with self._changed:
            self._beats[name] = beat
            if not self._is_running:
                self._is_running = True
                # a daemon, or a process whose main thread has failed would live as long as its claims
                threading.Thread(target=self._run, name="beats", daemon=True).start()

    def remove(self, name: str) -> None:
        """Call it no more; a call that has begun may still go on."""
        with self._changed:
            self._beats.pop(name, None)
            if not self._beats:
                self._changed.notify()

    def _run(self) -> None:
        while beats := self._due():
            for name, beat in beats.items():
                if not _is_to_go_on(name, beat):
                    self.remove(name)

    def _due(self) -> dict[str, Callable[[], bool]]:
        """Wait; return what is to be called then, nothing at the end of the thread."""
        with self._changed:
            self._changed.wait_for(lambda: not self._beats, self._seconds())
            self._is_running = bool(self._beats)
            return dict(self._beats)


def _is_to_go_on(name: str, beat: Callable[[], bool]) -> bool:
    try:
        return beat()
    except Exception:  # one that breaks must not end the others
        logger.exception("%s is not kept fresh any more", name)
        return False
