"""Dropout whose masks follow from a key of each sample, and from nothing else: not from rank, device or chunk."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, TypeAlias

import torch
from pydantic import Field

from ppfl.core.counter_hash import BITS, bits, with_name
from ppfl.networks.model import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.types import Params

Rate: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
"""Probability that a number is dropped."""

_keys: ContextVar[torch.Tensor | None] = ContextVar("keys of the samples", default=None)


@contextmanager
def keyed(keys: torch.Tensor | None) -> Iterator[None]:
    """Let the stages inside see the keys (S,) int64 of their samples; None: they are scored, and nothing is dropped."""
    token = _keys.set(keys)
    try:
        yield
    finally:
        _keys.reset(token)


def dropout(x: torch.Tensor, rate: float, place: str) -> torch.Tensor:
    """x · mask / (1 − rate), a mask entry being 0 with probability `rate`; x itself for samples without keys.

    Source: Srivastava et al., JMLR 2014, with the factor in training instead of scoring. x (S, …); the mask follows
    from (key of the sample, place, position in x), so that graphs that are run again see the same one. place: another
    one for each use in a model. Of clients side by side x is what one of them has, as in every function of a stage.
    """
    keys = _keys.get()
    if keys is None or rate == 0.0:
        return x
    drawn = bits(with_name(keys, place), x[0].numel()).reshape(x.shape)
    kept = drawn >= round(rate * (1 << BITS))
    return torch.where(kept, x / (1.0 - rate), 0.0)


def dropout_stage(name: str, rate: float) -> Stage:
    """Return x -> dropout(x), a stage without parameters; its name is the place."""

    def apply(params: Params, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, rate, name)

    return Stage(name, {}, apply, is_random=True)
