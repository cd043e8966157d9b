"""SIGUSR1 and SIGTERM, which batch systems send before they end a job, become a wish to stop."""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
STOPPED = 75
"""Exit code of what was stopped before its end with everything saved: start it again to continue."""
STOPPED_ON_REQUEST = 76
"""The same after `ppfl stop`: no script is to start it again by itself."""
ON_REQUEST = "stopped on request"
"""Status of a run that was asked to stop and is not to go on by itself."""


class StopSignals:
    """Calling it says whether one of the signals has come since it was made; more of them change nothing.

    Make it in the main thread, and early: until then the signals end the process.
    """

    def __init__(self) -> None:
        self._came = False
        for number in SIGNALS:
            signal.signal(number, self._note)

    def __call__(self) -> bool:
        """Say whether a signal has come."""
        return self._came

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True
