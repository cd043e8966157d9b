"""The round from which a run would go on, without reading the checkpoint itself (`ppfl.results.checkpoints` does)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ppfl.core.plain_file import open_plain
from ppfl.results.layout import checkpoint_path

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 1 << 24


def goes_on_from(result: Path) -> int | None:
    """Return the round of the newest checkpoint beside a result; None when there is none, or none that makes sense."""
    for name in ("current.json", "previous.json"):
        try:
            with open_plain(checkpoint_path(result) / name) as file:
                entry = json.loads(file.read(_MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
        round = entry.get("round") if isinstance(entry, dict) else None
        if isinstance(round, int) and not isinstance(round, bool) and round >= 0:
            return round
    return None
