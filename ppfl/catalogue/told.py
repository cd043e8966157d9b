"""Who hears how far a transfer is."""

from __future__ import annotations

from typing import Protocol


class Told(Protocol):
    """Told by what takes long."""

    def tell(self, text: str) -> None:
        """Tell a line."""
        ...

    def update(self, what: str, done: int, total: int | None, unit: str) -> None:
        """Tell how much is done, of how much where that is known."""
        ...


class Silent:
    """Says nothing."""

    def tell(self, text: str) -> None:
        """Say nothing."""

    def update(self, what: str, done: int, total: int | None, unit: str) -> None:
        """Say nothing."""
