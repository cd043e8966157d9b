"""Settings of a method that are numbers alone: told apart from all others, and put into it as tensors.

Runs that differ in nothing else do the same with other factors, and what a client computes can be one vectorized
function of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from ppfl.core.content import content
from ppfl.interfaces.schedule import InRounds, Schedule

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping

    import torch

Path: TypeAlias = "tuple[str, ...]"
"""Names of fields, from the method inwards: ("fine_tuner", "lr")."""


def numbers_of(part: InRounds, leave_out: Collection[str] = ()) -> dict[Path, float]:
    """Return the floats among the settings of a method and of its parts.

    leave_out: fields of the method itself that its clients do not look at.

    >>> from ppfl.engine.mapping.numbers import numbers_of
    >>> from ppfl.fine_tuners.gradient_descent import GradientDescent
    >>> numbers_of(GradientDescent(name="gradient_descent", steps=3, lr=0.5))
    {('lr',): 0.5}
    """
    found: dict[Path, float] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, float) and name not in leave_out:
            found[name,] = value
        elif isinstance(value, InRounds):
            found |= {(name, *path): number for path, number in numbers_of(value).items()}
    return found


def form_of(part: InRounds, leave_out: Collection[str] = ()) -> Hashable:
    """Return the same for methods of one kind that are alike in all but `numbers_of`, and in schedules: these are in
    the numbers of a round (`InRounds.at`)."""
    fields = {name: getattr(part, name) for name in type(part).model_fields if name not in leave_out}
    numbers = {name for name, value in fields.items() if isinstance(value, float)}
    parts = {name: form_of(value) for name, value in fields.items() if isinstance(value, InRounds)}
    schedules = {name for name, value in fields.items() if isinstance(value, Schedule)}
    rest = content(part, leave_out={*leave_out, *numbers, *parts, *schedules})
    return rest, tuple(sorted(numbers)), tuple(parts.items())


def with_numbers(part: InRounds, numbers: Mapping[Path, torch.Tensor]) -> Any:
    """Return a method with tensors () in the place of some of its numbers."""
    changed: dict[str, Any] = {}
    for name in dict.fromkeys(path[0] for path in numbers):
        inside = {path[1:]: number for path, number in numbers.items() if path[0] == name}
        changed[name] = inside[()] if () in inside else with_numbers(getattr(part, name), inside)
    return part.model_copy(update=changed) if changed else part
