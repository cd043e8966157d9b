"""Which mapping serves a run on this rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.engine.mapping.batched import Batched
from ppfl.engine.mapping.joint import Joint
from ppfl.engine.mapping.laned import Laned
from ppfl.engine.mapping.loop import Loop
from ppfl.engine.mapping.mapping import Mapping

if TYPE_CHECKING:
    from ppfl.engine.setup import Setup

_IN_TURN: tuple[type[Mapping], ...] = (Laned, Joint, Batched, Loop)


def choose_mapping(setup: Setup) -> Mapping:
    """Return the first one that can. All of them give the same bits but Joint and Batched, whose chunks are part of
    what a run is: ranks may choose differently."""
    return choose_mappings(setup)[0]


def choose_mappings(*setups: Setup) -> list[Mapping]:
    """Return the same for several methods on the states of the same clients: all of one kind."""
    kind = next(mapping for mapping in _IN_TURN if all(mapping.can(setup) for setup in setups))
    return [kind(setup) for setup in setups]
