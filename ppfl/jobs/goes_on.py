"""The round from which a run would go on, without reading the checkpoint itself (`ppfl.results.checkpoints` does)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.jobs.notes import count, read_note
from ppfl.results.layout import checkpoint_path

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 1 << 24
"""There are 250 bytes a rank in it."""


def goes_on_from(result: Path) -> int | None:
    """Return the round of the newest checkpoint beside a result; None when there is none, or none that makes sense."""
    for name in ("current.json", "previous.json"):
        entry = read_note(checkpoint_path(result) / name, {"round": count}, _MAX_BYTES)
        if entry is not None and "round" in entry.said:
            return int(entry.said["round"])
    return None
