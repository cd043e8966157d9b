"""What the rounds have cost so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Costs:
    """What the rounds have cost so far, over all clients of all ranks."""

    shared_gradients: float = 0.0
    local_gradients: float = 0.0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    seconds: float = 0.0
    """Wall-clock seconds in rounds on rank 0, without scoring and writing."""
    nonfinite_clients: int = 0
    """Vectors that robust rules left out for NaN or inf, one a client and round."""
    virtual_seconds: float = 0.0
    """Sum over rounds of the slowest client's compute time, where the run has compute times."""
