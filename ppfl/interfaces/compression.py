"""The section `compression:`: clients send shorter messages than what they computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from ppfl.core.plugins import ChosenFrom, Settings, refusal
from ppfl.interfaces.compressor import Compressor

if TYPE_CHECKING:
    from ppfl.interfaces.method import Algorithm
    from ppfl.interfaces.strategic import Strategic

NO_COMPRESSOR = "none"
"""Name of the compressor that leaves everything as it is."""


class Compression(Settings):
    """The server gets C(x_m + e_m) in the place of x_m;  e_m ← x_m + e_m − C(x_m + e_m), 0 before the first round.

    x_m is all that a client sends, as one vector (D,); e_m, the error memory, stays with the client. Without error
    feedback e_m is 0 for ever. Source: Karimireddy, Rebjock, Stich, Jaggi, ICML 2019, Algorithm 2 (EF-SGD), with steps
    of the server as a method takes them: its γ is no factor inside of C.
    """

    compressor: Annotated[Compressor, ChosenFrom("ppfl.compressors")]
    """C."""
    error_feedback: bool = True
    """Whether clients remember what was lost, and add it to what they send next."""

    @property
    def changes(self) -> bool:
        """Whether anything that is sent is another than without the section."""
        return self.compressor.name != NO_COMPRESSOR

    def refuse(self, algorithm: Algorithm, strategic: Strategic | None) -> None:
        """Raise pydantic's error for methods and clients whose messages cannot be shortened."""
        if not self.changes:
            return
        if algorithm.needs_whole_uplinks:
            reason = f"what {algorithm.name!r} sends cannot be compressed: {algorithm.needs_whole_uplinks}"
            raise refusal("compression", f"null, since {reason}")
        if strategic is not None and strategic.noise > 0:
            raise refusal("strategic.noise", "0 beside `compression`: a message has no room for noise on all entries")
