"""A pattern that is stamped on samples, and what scores ask of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ppfl.core.agree import SharedUserError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Trigger:
    """Numbers of a sample, counted in the order of its memory, that are set to a value.

    >>> import torch
    >>> from ppfl.interfaces.trigger import Trigger
    >>> Trigger((1, 3), 1.0).stamped(torch.zeros(1, 2, 2))
    tensor([[[0., 1.],
             [0., 1.]]])
    """

    places: tuple[int, ...]
    value: float

    def stamped(self, x: torch.Tensor) -> torch.Tensor:
        """Return samples (S, …) with the trigger on all of them, in memory of their own."""
        flat = x.reshape(len(x), -1).clone()
        flat[:, torch.tensor(self.places, device=x.device)] = self.value
        return flat.reshape(x.shape)


@dataclass(frozen=True)
class Probe:
    """What scored samples are tried with: how many are then taken for the target, of those that are of another class.

    With several triggers it is the mean over them.
    """

    metric: str
    """What the score is called, after the part."""
    target: int
    triggers: tuple[Trigger, ...]


@dataclass(frozen=True)
class SampleFacts:
    """What all ranks know of the samples that attackers have."""

    shape: tuple[int, ...] | None
    """Of one sample, such as (channels, height, width) or (features,); None: samples are tokens."""
    num_classes: int
    num_attackers: int


def square(shape: Sequence[int], size: int, number: int = 0) -> tuple[int, ...]:
    """Return the places of one of the squares that images are cut into, in all channels; of vectors, of runs of `size`
    numbers. They are counted from the lower right corner to the left, then up, and begin again behind the last one.

    Raises SharedUserError for a square larger than the image.

    >>> from ppfl.interfaces.trigger import square
    >>> square((1, 4, 4), 2), square((1, 4, 4), 2, number=1), square((5,), 2, number=1)
    ((10, 11, 14, 15), (8, 9, 12, 13), (1, 2))
    """
    height, width = (1, shape[0]) if len(shape) == 1 else shape[-2:]
    rows = 1 if len(shape) == 1 else size
    if rows > height or size > width:
        sides = f"{width} numbers" if len(shape) == 1 else f"{height} × {width} pixels"
        raise SharedUserError(
            f"byzantine.attack.size: is {size}, and samples have {sides}; allowed: at most {min(shape[-2:])}"
        )
    # what is left at the upper and left edges is smaller than a square, and in none
    across, down = width // size, height // rows
    up, left = divmod(number % (across * down), across)
    bottom, right = height - up * rows, width - left * size
    return tuple(
        (channel * height + row) * width + column
        # of vectors the product is empty: one channel
        for channel in range(math.prod(shape[:-2]))
        for row in range(bottom - rows, bottom)
        for column in range(right - size, right)
    )
