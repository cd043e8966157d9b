"""Which engine runs a setup."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ppfl.engine.messages import Messages
from ppfl.engine.synchronous import Synchronous
from ppfl.engine.virtual_clock import VirtualClock

if TYPE_CHECKING:
    from ppfl.engine.checkpoint import Checkpointer
    from ppfl.engine.setup import Setup

AnyEngine: TypeAlias = Synchronous | VirtualClock | Messages


def open_engine(setup: Setup, checkpointer: Checkpointer | None = None) -> AnyEngine:
    """Return the engine, which has not begun yet. Collective."""
    if setup.asynchronous is None:
        return Synchronous(setup, checkpointer)
    engine = VirtualClock if setup.asynchronous.engine == "virtual" else Messages
    return engine(setup, checkpointer)
