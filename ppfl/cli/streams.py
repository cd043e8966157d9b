"""Standard output and error take any text, and what cannot be written is told by the exit code."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress

_ERRORS = "ppfl.status.show"
_SPELLED = str.maketrans(
    {
        "θ": "theta", "∇": "grad ", "ρ": "rho", "σ": "sigma", "η": "eta", "α": "alpha", "ζ": "zeta", "×": "x",

        "‖": "||", "–": "-", "—": "-", "…": "...", "→": "->", "≤": "<=", "≥": ">=", "·": "*", "²": "^2", "“": '"',
        "”": '"', "’": "'", "\N{THIN SPACE}": " ", "┃": "|", "│": "|", "━": "=", "─": "-",
    } | dict.fromkeys("┏┳┓┡╇┩├┼┤└┴┘┌┬┐", "+")
)  # fmt: skip


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write bytes of names as they are, and characters that a terminal has not in others."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    written = b""
    for character in text:
        if "\udc80" <= character <= "\udcff":
            # a byte that is not UTF-8 came in as one of these code points (PEP 383), and goes out as it was
            written += bytes([ord(character) - 0xDC00])
        else:
            written += character.translate(_SPELLED).encode("ascii", "backslashreplace")
    return written, error.end


codecs.register_error(_ERRORS, _spell)


def accept_any_text() -> None:
    """Let standard output and error write whatever they are given."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(ValueError):  # closed
                stream.reconfigure(errors=_ERRORS)


def finish_output() -> None:
    """Write what is left. Raises OSError when that cannot be, after which nothing more will be tried."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            give_up_output(stream.fileno())
            raise


def give_up_output(number: int = 1) -> None:
    """Send to nowhere what Python would try to write at its end, and complain of."""
    with suppress(OSError):
        # the reader may have gone (`| head`): Python would try once more at its very end, and print a traceback of
        # that
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
