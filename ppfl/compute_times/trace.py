"""Times that were measured, or drawn, in another run."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ppfl.core.data_file import DataFile
from ppfl.interfaces.arrival_log import read_arrivals
from ppfl.interfaces.compute_times import ComputeTimes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.plugins import Example


class Trace(ComputeTimes):
    """t of job k of a client: what its k-th arrival in the recorded log took, from the beginning again after the last.

    The log is the group `arrivals` of the result of an asynchronous run. Unlike a replay, which repeats the order of
    arrivals, a trace gives the times alone: another method or problem with the same clients may run with them.
    """

    name: Literal["trace"]
    example: ClassVar[Example] = {"file": "arrivals.h5"}
    file: DataFile
    """The result, HDF5 with arrivals/client and arrivals/turnaround_seconds."""

    def seconds(self, seed: int, client: int, job: int) -> float:
        """Return the recorded time."""
        recorded = self._times[client]
        return float(recorded[job % len(recorded)])

    def check(self, clients: Sequence[int]) -> None:
        """Refuse files without a log, and logs in which some client never arrives."""
        times = self._times
        missing = [client for client in clients if client not in times]
        if missing:
            raise ValueError(
                f"file: {self.file.path.name} has no arrival of client {missing[0]} ({len(missing)} clients without "
                f"one); record a run long enough for every client to arrive"
            )

    @cached_property
    def _times(self) -> dict[int, np.ndarray]:
        """The recorded times of every client that arrived; read once, as the digest is."""
        path = self.file.path
        log = read_arrivals(path, f"compute_times.file: {path.name}", ("client", "turnaround_seconds"))
        if not log:
            raise ValueError(f"file: {path.name} is no result of an asynchronous run: it has no arrival log")
        clients, seconds = log["client"], log["turnaround_seconds"]
        return {int(client): seconds[clients == client] for client in np.unique(clients)}
