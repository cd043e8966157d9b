"""Clusters of clients whose samples were made in clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.interfaces.shift import Shift

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.interfaces.dataset import FederatedSamples


class Recorded(Shift):
    """x and y stay as they are: the data have clusters already, and this says who is in which.

    Source: none is needed; for made-up data, so that methods and tables that know of clusters know theirs.
    """

    name: Literal["recorded"]
    example: ClassVar[Example] = {"clusters": 2}

    def unsuited(self, samples: FederatedSamples) -> str:
        """Any samples."""
        return ""
