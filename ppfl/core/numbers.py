"""Numbers in texts: whole ones that others wrote, in environment variables and options; large ones for people."""

from __future__ import annotations

_MAX_DIGITS = 18
"""More are no count of anything, and would not fit into 64 bits."""


def whole_number(text: str) -> int | None:
    """Return a number of ASCII digits alone; None for everything else that `int` or `str.isdigit` would take."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def in_words(number: float, unit: str) -> str:
    """Return a number with three digits and the prefix of its size, e.g. "6.24 GB"."""
    for prefix in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g} {prefix}{unit}"
        number /= 1000
    return f"{number:.3g} P{unit}"
