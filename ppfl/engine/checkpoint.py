"""What of an engine's state goes into a snapshot, and how ranks agree to take one.

Only values do: what is random comes from counters, and a job that is on its way is a pure function of its client's
state, θ and its number, so it is noted, not saved, and computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.core.communicator import Communicator
    from ppfl.core.snapshot import Snapshot
    from ppfl.core.types import Params, State
    from ppfl.engine.group import ClientGroup


@dataclass(frozen=True, slots=True)
class Due:
    """What is to happen between two rounds."""

    stop: bool
    """Save the state and end."""
    save: bool
    """Save the state."""


class Checkpointer(Protocol):
    """Whoever runs an engine: is told how far it is, says when to save and to stop, and takes the snapshots."""

    def due(self, done: int) -> Due:
        """Return what is due on this rank after `done` rounds; called often, and not at the same time on all ranks."""
        ...

    def save(self, snapshot: Snapshot) -> None:
        """Keep a snapshot. Collective."""
        ...


NOTHING_DUE = Due(stop=False, save=False)


def agree(checkpointer: Checkpointer | None, communicator: Communicator, done: int) -> Due:
    """Return what is due on any rank. Collective; one process does not communicate."""
    if checkpointer is None:
        return NOTHING_DUE
    due = checkpointer.due(done)
    if communicator.size == 1:
        return due
    stop, save = communicator.allreduce(torch.tensor([due.stop, due.save], dtype=torch.int64), "max").tolist()
    return Due(bool(stop), bool(save))


def name_state(prefix: str, state: Mapping[str, Params]) -> Params:
    """Return {prefix/group/name: tensor}."""
    return {f"{prefix}/{group}/{name}": value for group, params in state.items() for name, value in params.items()}


def name_params(prefix: str, params: Params) -> Params:
    """Return {prefix/name: tensor}."""
    return {f"{prefix}/{name}": value for name, value in params.items()}


def read_params(tensors: Params, prefix: str, device: torch.device) -> Params:
    """Return the parameters that `name_params` named, in their order."""
    start = f"{prefix}/"
    # copies in memory of their own: kernels round differently for other alignments
    return {
        name.removeprefix(start): value.to(device, copy=True)
        for name, value in tensors.items()
        if name.startswith(start)
    }


def read_state(tensors: Params, prefix: str, like: State, device: torch.device) -> State:
    """Return the state that `name_state` named; groups without tensors are those of `like`."""
    state: State = {group: {} for group in like}
    for rest, value in read_params(tensors, prefix, device).items():
        group, name = rest.split("/", 1)
        state.setdefault(group, {})[name] = value
    return state


@dataclass(frozen=True)
class StatesOf:
    """The states of a group as a snapshot has them (`ppfl.core.snapshot.ClientStates`)."""

    group: ClientGroup

    @property
    def clients(self) -> Sequence[int]:
        """Clients whose states may differ from the initial ones."""
        return self.group.changed

    def like(self, client: int) -> State:
        """Return shapes and number types of a state."""
        return self.group.like(client)

    def state(self, client: int) -> State:
        """Return a state."""
        return self.group.state(client)
