"""Times that were measured, or drawn, in another run."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from ppfl.core.compute_times import ComputeTimes
from ppfl.core.data_file import DataFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Trace(ComputeTimes):
    """t of job k of a client: what its k-th arrival in the recorded log took, from the beginning again after the last.

    The log is the group `arrivals` of the result of an asynchronous run. Unlike a replay, which repeats the order of
    arrivals, a trace gives the times alone: another method or problem with the same clients may run with them.
    """

    name: Literal["trace"]
    file: DataFile
    """The result, HDF5 with arrivals/client and arrivals/turnaround_seconds."""

    def seconds(self, seed: int, client: int, job: int) -> float:
        """Return the recorded time."""
        recorded = _read(self.file.path)[client]
        return float(recorded[job % len(recorded)])

    def check(self, clients: Sequence[int]) -> None:
        """Refuse files without a log, and logs in which some client never arrives."""
        missing = [client for client in clients if client not in _read(self.file.path)]
        if missing:
            raise ValueError(
                f"file: {self.file.path.name} has no arrival of client {missing[0]} ({len(missing)} clients without "
                f"one); record a run long enough for every client to arrive"
            )


@cache
def _read(path: Path) -> dict[int, np.ndarray]:
    """Return the recorded times of every client that arrived."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            clients, times = file["arrivals/client"][()], file["arrivals/turnaround_seconds"][()]
    except (OSError, KeyError) as error:
        raise ValueError(f"file: {path.name} is no result of an asynchronous run: it has no arrival log") from error
    return {int(client): times[clients == client] for client in np.unique(clients)}
