"""Which mapping serves a run on this rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.engine.mapping.joint import Joint
from ppfl.engine.mapping.laned import Laned
from ppfl.engine.mapping.loop import Loop
from ppfl.engine.mapping.mapping import Mapping
from ppfl.engine.mapping.vectorized import Vectorized

if TYPE_CHECKING:
    from ppfl.engine.setup import Setup

_IN_TURN: tuple[type[Mapping], ...] = (Laned, Joint, Vectorized, Loop)


def choose_mapping(setup: Setup) -> Mapping:
    """Return the first one that can. All of them give the same bits but Joint and Vectorized, whose chunks are part of
    what a run is: ranks may choose differently."""
    return next(mapping(setup) for mapping in _IN_TURN if mapping.can(setup))
