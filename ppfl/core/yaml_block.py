"""Lines of plain values in the block style of PyYAML, in a tiny part of its time: it looks at every letter anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Scalar = Callable[[Any, str], str]

_FOLDED_BEYOND = 80
"""Columns: PyYAML breaks longer lines, where depends on the style."""
_STEP = "  "


class NotPlainError(ValueError):
    """A value that PyYAML has to write: long lines, keys that are no names, parts that occur twice, other types."""


def block_text(value: dict[str, Any], scalar: Scalar) -> str:
    """Return the text of a mapping that is not empty, of mappings, lists and scalars.

    scalar: returns the text of a scalar. It is also given as `repr` has it: 0.0 and -0.0 are equal, but not the same.
    Raises NotPlainError.
    """
    lines = _lines(value, "", scalar, set())
    if max(map(len, lines)) > _FOLDED_BEYOND:
        raise NotPlainError
    return "\n".join([*lines, ""])


def _lines(value: dict[str, Any] | list[Any], indent: str, scalar: Scalar, seen: set[int]) -> list[str]:
    """Return the lines of what is not empty."""
    lines = []
    _refuse_second(value, seen)
    if isinstance(value, dict):
        for key, item in value.items():
            if not (type(key) is str and key.isidentifier()):
                raise NotPlainError
            name = scalar(key, key)
            if item and type(item) in (dict, list):
                # the dashes of a list are indentation enough
                inner = indent if type(item) is list else indent + _STEP
                lines += [f"{indent}{name}:", *_lines(item, inner, scalar, seen)]
            else:
                lines.append(f"{indent}{name}: {_on_one_line(item, scalar, seen)}")
        return lines
    for item in value:
        if item and type(item) in (dict, list):
            first, *others = _lines(item, indent + _STEP, scalar, seen)
            lines += [f"{indent}- {first.removeprefix(indent + _STEP)}", *others]
        else:
            lines.append(f"{indent}- {_on_one_line(item, scalar, seen)}")
    return lines


def _on_one_line(value: Any, scalar: Scalar, seen: set[int]) -> str:
    kind = type(value)
    if kind is dict or kind is list:
        _refuse_second(value, seen)
        return "{}" if kind is dict else "[]"
    if kind is int:  # seeds are different in every run: nothing to remember
        return str(value)
    if value is None or kind in (str, float, bool):
        return scalar(value, repr(value))
    raise NotPlainError


def _refuse_second(value: object, seen: set[int]) -> None:
    """Remember a part; the second time it would get an anchor, and it may contain itself."""
    if id(value) in seen:
        raise NotPlainError
    seen.add(id(value))
