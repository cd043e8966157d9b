"""What a mapping is: the one way in which an engine calls the function of a client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ppfl.engine.mapping.inputs import ClientInputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import State
    from ppfl.engine.downlink import Downlink
    from ppfl.engine.mapping.uplinks import AnyUplink
    from ppfl.engine.setup import Setup


class Mapping(ABC):
    """Applies an algorithm's `client` to a chunk of clients of one rank.

    A kernel sees one chunk only, so that nothing depends on which other clients a rank happens to have. Each mapping
    says by itself whether it can serve a run; `ppfl.engine.mapping.choose` asks them in turn.
    """

    def __init__(self, setup: Setup) -> None:
        self.objective = setup.problem.objective
        self.algorithm = setup.algorithm
        self.inputs = ClientInputs(setup)

    @classmethod
    @abstractmethod
    def can(cls, setup: Setup) -> bool:
        """Say whether a run can be computed like this, on this rank."""

    @abstractmethod
    def __call__(
        self, downlink: Downlink, chunk: range, members: Sequence[int], states: State, round: int
    ) -> tuple[Sequence[AnyUplink], State]:
        """Return what the members of a chunk send, in order, and the states of the whole chunk, stacked (K, …).

        members: clients of the chunk that take part; the states of the others
        stay as they are.
        """
