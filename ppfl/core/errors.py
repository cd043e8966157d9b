"""The one kind of exception that is meant for whoever wrote the configuration or started the command."""

from __future__ import annotations

USER_ERROR = 2
"""Exit code of a command that a mistake of the user ended."""


class UserError(Exception):
    """A mistake that the user can correct: printed without a traceback, exit code 2.

    The message is one line: what, where, what is allowed. Raised on every rank alike; only rank 0 prints it.
    """

    @property
    def lines(self) -> tuple[str, ...]:
        """Return what to print, one complaint a line."""
        return (" ".join(str(self).splitlines()),)


def in_one_line(text: str) -> str:
    """Return a text with line breaks, and what terminals take for commands, written as escapes."""
    return text if text.isprintable() else "".join(c if _is_shown(c) else repr(c)[1:-1] for c in text)


def _is_shown(character: str) -> bool:
    # bytes of names that are not UTF-8 are theirs to show
    return character.isprintable() or "\udc80" <= character <= "\udcff"
