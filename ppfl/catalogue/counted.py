"""What was counted in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Counted:
    """Facts by name, such as clients, samples and classes, or how a field looks; and samples by client."""

    facts: Mapping[str, int | str]
    sizes: Mapping[str, int] = field(default_factory=dict)


def shown(fact: int | str) -> str:
    """Return a number with commas, or a text as it is."""
    return f"{fact:,}" if isinstance(fact, int) else fact
