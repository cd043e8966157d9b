"""How many clients a configuration means by `cohort`, said once: before a run, where data tell, and in its rounds."""

from __future__ import annotations

from typing import Literal


def cohort_size(wanted: Literal["all"] | int | float, num_clients: int) -> int:
    """Return the number of clients: all of them, as many, or a fraction, rounded half to even, at least one."""
    if wanted == "all":
        return num_clients
    return wanted if isinstance(wanted, int) else max(1, round(wanted * num_clients))
