"""What samples are tested on: those of a file, or a fraction of those of each client to train on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Tag

from ppfl.interfaces.dataset import Parts

Fraction = Annotated[float, Field(ge=0, lt=1), Tag("fraction")]
"""Of samples that are kept for testing."""


def file_or_fraction(value: object) -> str:
    """Say which of the two a setting is."""
    return "fraction" if isinstance(value, int | float) else "file"


def parts_beside(test: object, validation: float) -> Parts:
    """Return how samples to train on are cut: nothing of them is for testing where there is a file for that."""
    return Parts(test if isinstance(test, float) else 0.0, validation)
