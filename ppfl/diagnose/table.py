"""A diagnosis as a table, as sentences and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ppfl.core.errors import UserError
from ppfl.core.files import write_whole
from ppfl.diagnose.verdict import level, listed, show_ratio, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ppfl.diagnose.verdict import Diagnosis, Ratio

_NUMBERS = ("ρ", "σ²(θ₀)", "σ²(θ̂)", "of it ‖F‖²", "train loss", "test loss", "test accuracy")


def render(found: Sequence[Diagnosis]) -> Table:
    """Return the table over splits, the groups of each below it."""
    table = Table("local", "shared part")
    for name in _NUMBERS:
        table.add_column(name, justify="right")
    for one in found:
        scores = (one.common_share, one.train_loss, one.test_loss, one.test_accuracy)
        table.add_row(Text(listed(one.local)), "all", *_ratio(one.rho), *map(_number, scores))
        for group, ratio in one.groups.items() if len(one.groups) > 1 else ():
            table.add_row("", Text(group), *_ratio(ratio), end_section=group == next(reversed(one.groups)))
    return table


def write_json(path: Path, source: str, found: Sequence[Diagnosis]) -> None:
    """Write everything that was found; numbers that are unknown are null. Raises UserError."""
    splits = [{**asdict(one), "level": level(one.rho), "verdict": verdict(one)} for one in found]
    text = json.dumps(_without_nan({"source": source, "splits": splits}), indent=1, ensure_ascii=False)
    try:
        write_whole(path, f"{text}\n".encode(errors="backslashreplace"))  # as JSON spells bytes that are not UTF-8
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written: {error.strerror}") from error


def _ratio(ratio: Ratio) -> tuple[str, ...]:
    rho = show_ratio(ratio) if math.isfinite(ratio.value) else "–"
    return rho, _number(ratio.at_start), _number(ratio.at_end)


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
