"""What arrived when: the log of an asynchronous run, kept in memory and written with its result."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


@dataclass(frozen=True, slots=True)
class Loss:
    """One job whose uplink never reached the server, or was never given."""

    client: int
    version: int
    """Server updates that θ had seen when it was sent to the client, or would have been."""
    arrivals: int
    """Uplinks of others that had arrived when the server gave it up."""
    fate: int
    """What became of it, a number of `ppfl.interfaces.network.Fate`."""
    seconds: float
    """When it was given up, on the clock of the engine."""


Entry = TypeVar("Entry", Arrival, Loss)


class Log(Generic[Entry]):
    """What happened so far, in its order: entries of one kind, kept as columns."""

    def __init__(self, integers: Sequence[str], times: Sequence[str]) -> None:
        # numbers side by side: an object for each would take many times the memory
        self._integers = {name: array("q") for name in integers}
        self._times = {name: array("d") for name in times}

    def __len__(self) -> int:
        return len(self._integers["client"])

    def append(self, entry: Entry) -> None:
        """Add one."""
        for name, integers in self._integers.items():
            integers.append(getattr(entry, name))
        for name, times in self._times.items():
            times.append(getattr(entry, name))

    def restore(self, log: Mapping[str, torch.Tensor]) -> None:
        """Begin with the arrays of an earlier log."""
        for name, integers in self._integers.items():
            integers.extend(log[name].tolist())
        for name, times in self._times.items():
            times.extend(log[name].tolist())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return {name of a field: (entries,)}, int64 or float64."""
        return {name: np.array(values) for name, values in (*self._integers.items(), *self._times.items())}


class ArrivalLog(Log[Arrival]):
    """All arrivals, also dropped ones."""

    def __init__(self) -> None:
        super().__init__(("client", "version", "delay"), ("seconds", "turnaround_seconds"))


class LossLog(Log[Loss]):
    """All jobs whose uplinks did not arrive."""

    def __init__(self) -> None:
        super().__init__(("client", "version", "arrivals", "fate"), ("seconds",))
