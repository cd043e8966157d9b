"""Lines of plain values in the block style of PyYAML, in a tiny part of its time: it looks at every letter anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FOLDED_BEYOND = 80
"""Columns: PyYAML breaks longer lines, where depends on the style."""


class NotPlainError(ValueError):
    """A value that PyYAML has to write: long lines, keys that are no names, parts that occur twice, other types."""


def block_text(value: dict[str, Any], scalar: Callable[[Any, str], str]) -> str:
    """Return the text of a mapping that is not empty, of mappings, lists and scalars.

    scalar: returns the text of a scalar. It is also given as `repr` has it: 0.0 and -0.0 are equal, but not the same.
    Raises NotPlainError.
    """
    lines = list(_lines(value, scalar, set()))
    if max(map(len, lines)) > _FOLDED_BEYOND:
        raise NotPlainError
    return "\n".join([*lines, ""])


def _lines(value: Any, scalar: Callable[[Any, str], str], seen: set[int]) -> Iterator[str]:
    kind = type(value)
    if kind is not dict and kind is not list:
        if value is not None and kind not in (str, int, float, bool):
            raise NotPlainError
        # seeds are different in every run: nothing to remember
        yield str(value) if kind is int else scalar(value, repr(value))
        return
    if id(value) in seen:  # it gets an anchor, and may contain itself
        raise NotPlainError
    seen.add(id(value))
    if not value:
        yield "{}" if kind is dict else "[]"
    elif kind is list:
        for item in value:
            first, *others = _lines(item, scalar, seen)
            yield f"- {first}"
            yield from (f"  {line}" for line in others)
    else:
        for key, item in value.items():
            if not (type(key) is str and key.isidentifier()):
                raise NotPlainError
            name, lines = scalar(key, repr(key)), _lines(item, scalar, seen)
            if type(item) not in (dict, list) or not item:
                yield f"{name}: {next(lines)}"
                continue
            yield f"{name}:"
            # dashes are indentation enough
            yield from lines if type(item) is list else (f"  {line}" for line in lines)
