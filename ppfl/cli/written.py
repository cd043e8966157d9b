"""Where the text of a command goes: to a file that was asked for, or to standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ppfl.core.errors import UserError
from ppfl.core.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path


def write_text(text: str, out: Path | None) -> None:
    """Write it whole, making the folder, or print it where `out` is None. Raises UserError where it cannot be."""
    if out is None:
        click.echo(text, nl=False)
        return
    write_bytes(text.encode(), out)


def write_bytes(content: bytes, out: Path) -> None:
    """Write it whole, making the folder. Raises UserError where it cannot be."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content)
    except OSError as error:
        raise UserError(f"--out {out}: cannot write it: {error.strerror}") from error
