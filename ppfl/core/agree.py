"""Errors that one rank meets and all ranks must end with, so that nobody waits in a collective for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.core.communicator import Communicator

Result = TypeVar("Result")


class SharedUserError(UserError):
    """A UserError that every rank raises, so that one of them may tell it; a rank that met one itself has that as its
    `__cause__`."""


def on_every_rank(communicator: Communicator, action: Callable[[], Result]) -> Result:
    """Run `action`, which makes no collective call, on every rank. Collective.

    Raises SharedUserError on all ranks, with the message of the lowest rank that met one, when any rank met a
    UserError.
    """
    result: Result | None = None
    met: UserError | None = None
    try:
        result = action()
    except UserError as error:
        met = error
    # every rank gets here, with or without an error, and the same text decides on all; an error without words must
    # not pass for none
    told = _gather_text(communicator, (str(met) or type(met).__name__) if met is not None else "")
    if told:
        raise SharedUserError(told) from met
    return result  # type: ignore[return-value]


def on_first_rank(communicator: Communicator, action: Callable[[], str]) -> str:
    """Run `action` on rank 0 alone and return its text on every rank. Collective; errors as in `on_every_rank`."""
    return on_one_rank(communicator, communicator.rank == 0, action)


def on_one_rank(communicator: Communicator, is_mine: bool, action: Callable[[], str]) -> str:
    """Do the same on the one rank where `is_mine`. Collective; errors as in `on_every_rank`."""
    text = on_every_rank(communicator, action if is_mine else lambda: "")
    return _gather_text(communicator, text)


def _gather_text(communicator: Communicator, text: str) -> str:
    """Return the first non-empty text of all ranks, in the order of ranks; each text is one line."""
    words = " ".join(text.split())
    if communicator.size == 1:  # as most runs of a pack are, which have no time for tensors
        return words
    # texts of all ranks arrive as one: a line break says where that of a rank ends
    line = f"{words}\n" if text else ""
    mine = torch.tensor(list(line.encode(errors="surrogatepass")), dtype=torch.uint8)  # it may have any path in it
    everything = bytes(communicator.allgather_rows(mine).tolist()).decode(errors="surrogatepass")
    return everything.split("\n", 1)[0]
