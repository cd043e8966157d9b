"""What the rounds have cost so far."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.communicator import GuardedCommunicator


@dataclass
class Costs:
    """What the rounds have cost so far, over all clients of all ranks."""

    shared_gradients: float = 0.0
    local_gradients: float = 0.0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    seconds: float = 0.0
    """Wall-clock seconds in rounds on rank 0, without scoring and writing."""
    communication_seconds: float = 0.0
    """Those of them in collectives and messages, waiting for other ranks included."""
    nonfinite_clients: int = 0
    """Vectors that robust rules left out for NaN or inf, one a client and round."""
    virtual_seconds: float = 0.0
    """Sum over rounds of the slowest client's compute time, where the run has compute times."""

    @contextmanager
    def timed(self, communicator: GuardedCommunicator) -> Iterator[None]:
        """Count the seconds of what is done inside, and those of them spent in communication."""
        started, communicated = time.perf_counter(), communicator.seconds
        yield
        self.seconds += time.perf_counter() - started
        self.communication_seconds += communicator.seconds - communicated


@dataclass
class StageCosts:
    """What the training of a final stage has cost, over all clients of all ranks; nothing where nothing is tuned."""

    shared_gradients: float = 0.0
    """Of whole models, where nothing is local; in the unit of the rounds, each over one batch of one client."""
    local_gradients: float = 0.0
    seconds: float = 0.0
    """Wall-clock seconds of tuning alone, on the rank that took longest."""
