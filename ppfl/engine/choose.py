"""Which engine runs a setup."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ppfl.engine.messages import Messages
from ppfl.engine.synchronous import Synchronous
from ppfl.engine.virtual_clock import VirtualClock

if TYPE_CHECKING:
    from ppfl.engine.checkpoint import Keeper
    from ppfl.engine.setup import Setup

AnyEngine: TypeAlias = Synchronous | VirtualClock | Messages


def open_engine(setup: Setup, keeper: Keeper | None = None) -> AnyEngine:
    """Return the engine, which has not begun yet. Collective."""
    if setup.asynchronous is None:
        return Synchronous(setup, keeper)
    return VirtualClock(setup, keeper) if setup.asynchronous.engine == "virtual" else Messages(setup, keeper)
