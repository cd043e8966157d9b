"""Whole numbers in texts that others wrote: environment variables, options."""

from __future__ import annotations

_MAX_DIGITS = 18
"""More are no count of anything, and would not fit into 64 bits."""


def whole_number(text: str) -> int | None:
    """Return a number of ASCII digits alone; None for everything else that `int` or `str.isdigit` would take."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None
