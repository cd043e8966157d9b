"""What a workload is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    ranks: int
    repetitions: int
    folder: Path
    """Temporary."""
    tiny: bool = False
    """Small sizes, to see that a workload works."""
    clients: int | None = None
    """Of the workloads `memory` and `million`."""
    device: str = "cuda"
    """Of the workload `gpu`: cuda, or cpu to see that it works."""
    save: Callable[[Report], None] = lambda report: None
    """Keeps what is known so far, for who is killed."""


@dataclass(frozen=True)
class Report:
    """What was measured: rows of one table, facts that hold for all of them, and texts beside the table."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ranks: int | None = None
    """When it is not what was asked for."""
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Other tables, by their titles."""
