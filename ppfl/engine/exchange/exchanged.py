"""What one round came to, whatever became of the uplinks."""

from __future__ import annotations

from typing import NamedTuple


class Exchanged(NamedTuple):
    """Counts are those of the clients of this rank, but for vectors that were left out, which all ranks know."""

    is_finite: bool
    """False when nothing was received, since what the clients sent has NaN or inf."""
    downlink_bytes: int
    uplink_bytes: int
    num_nonfinite: int
    """Vectors that were left out for NaN or inf."""
