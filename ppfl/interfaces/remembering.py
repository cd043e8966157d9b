"""Data of which clients keep something by themselves, in their state, before they are gone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.core.types import Params, State
    from ppfl.interfaces.client_data import ClientData

MEMORY = "memory"
"""Group of a client's state beside those of the method, which never sees it."""


class Remembering(ABC):
    """What clients keep is a group of their state: it lies in their store and in checkpoints, and is never sent.

    Names, shapes and number types are the same in all rounds. Who computes a client hands its memory to the data first:

    >>> import torch
    >>> from ppfl.interfaces.remembering import Remembering
    >>> class Counting(Remembering):
    ...     recalled = {}
    ...
    ...     def first_memory(self):
    ...         return {"rounds": torch.tensor(0)}
    ...
    ...     def remembers_at(self, round):
    ...         return round > 0
    ...
    ...     def remember(self, client, memory, round):
    ...         return {"rounds": memory["rounds"] + 1}
    ...
    ...     def recall(self, memories):
    ...         self.recalled = memories
    >>> data, memory = Counting(), Counting().first_memory()
    >>> for round in range(3):
    ...     memory = data.remember(0, memory, round) if data.remembers_at(round) else memory
    >>> data.recall({0: memory})
    >>> data.recalled
    {0: {'rounds': tensor(2)}}
    """

    @abstractmethod
    def first_memory(self) -> Params:
        """Return what a client remembers before its first round."""

    @abstractmethod
    def remembers_at(self, round: int) -> bool:
        """Say whether clients keep something before this round."""

    @abstractmethod
    def remember(self, client: int, memory: Params, round: int) -> Params:
        """Return what a client of this rank remembers from this round on, given what it did before."""

    @abstractmethod
    def recall(self, memories: Mapping[int, Params]) -> None:
        """Take the memories of the clients that are computed on next."""


def with_memory(state: State, data: ClientData) -> State:
    """Return the first state of a client with what it remembers, where it does."""
    return {**state, MEMORY: data.first_memory()} if isinstance(data, Remembering) else state


def without_memory(state: State) -> State:
    """Return the state that a method knows."""
    return {group: params for group, params in state.items() if group != MEMORY}
