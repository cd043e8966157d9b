"""States of several clients, stacked, and states of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import State


def stack_states(states: Sequence[State]) -> State:
    """Return the states of K clients with a first dimension K."""
    first = states[0]
    return {
        name: {key: torch.stack([state[name][key] for state in states]) for key in group}
        for name, group in first.items()
    }


def member(states: State, row: int) -> State:
    """Return the state of one of them."""
    # a copy in memory of its own: kernels round differently for other alignments
    return {name: {key: value[row].clone() for key, value in group.items()} for name, group in states.items()}
