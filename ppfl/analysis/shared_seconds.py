"""Seconds of runs that were computed together: what a comparison of seconds may say of them."""

from __future__ import annotations

from collections.abc import Collection

from ppfl.analysis.sources import Source
from ppfl.core.errors import UserError

SHARED = frozenset({"seconds", "communication_seconds"})
"""Series whose values are shares of a common time."""


def check_seconds(source: Source, names: Collection[str], option: str) -> list[str]:
    """Return what a user must know of the seconds among the named series; nothing when they are each run's own.

    Raises UserError when some runs have seconds of their own and others shares: these are not to be compared. `option`
    is what asked for them.
    """
    if not SHARED.intersection(names):
        return []
    sizes = [run.seconds_shared_by for run in source.outlines if len(run.rounds)]
    together = [size for size in sizes if size > 1]
    if not together:
        return []
    if len(together) < len(sizes):
        raise UserError(
            f"{option}: {len(together)} of {len(sizes)} runs were computed together with others, and their seconds are "
            f"equal shares of a common time; the others have seconds of their own; take one kind (--where), compare "
            f"gradients, or run all by `ppfl run`"
        )
    groups = " to ".join(map(str, sorted({min(together), max(together)})))
    return [f"seconds are equal shares of the time of {groups} runs computed together, not what a run takes alone"]
