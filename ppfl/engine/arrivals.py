"""What arrived when: the log of an asynchronous run, kept in memory and written with its result."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


@dataclass(frozen=True, slots=True)
class Arrival:
    """One uplink that reached the server."""

    client: int
    version: int
    """Server updates that θ had seen when it was sent to the client."""
    delay: int
    """Server updates between then and the arrival."""
    seconds: float
    """Since the start of the run, on the clock of the engine."""
    turnaround_seconds: float
    """Since θ was sent to the client."""


class ArrivalLog:
    """All arrivals so far, also dropped ones, in their order."""

    def __init__(self) -> None:
        self._integers = {name: array("q") for name in ("client", "version", "delay")}
        self._times = {name: array("d") for name in ("seconds", "turnaround_seconds")}

    def __len__(self) -> int:
        return len(self._integers["client"])

    def append(self, arrival: Arrival) -> None:
        """Add one."""
        for name, integers in self._integers.items():
            integers.append(getattr(arrival, name))
        for name, times in self._times.items():
            times.append(getattr(arrival, name))

    def restore(self, log: Mapping[str, torch.Tensor]) -> None:
        """Begin with the arrays of an earlier log."""
        for name, integers in self._integers.items():
            integers.extend(log[name].tolist())
        for name, times in self._times.items():
            times.extend(log[name].tolist())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return {name of a field of Arrival: (arrivals,)}, int64 or float64."""
        return {name: np.array(values) for name, values in (*self._integers.items(), *self._times.items())}
