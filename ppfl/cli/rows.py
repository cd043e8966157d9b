"""Long tables of plain texts, at once."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_PIPE_WIDTH = 160


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as rich draws it, but for its colours, without rich where it is not too wide or more than ASCII."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else _PIPE_WIDTH
    is_plain = all(text.isascii() and text.isprintable() for row in (header, *rows) for text in row)
    if sum(widths) + 3 * len(widths) + 1 > room or not is_plain:
        _print_by_rich(header, rows)
        return
    padded = [
        [f" {text}{' ' * (width - len(text))} " for text, width in zip(row, widths, strict=True)]
        for row in (header, *rows)
    ]
    above, below = ["━" * (width + 2) for width in widths], ["─" * (width + 2) for width in widths]
    lines = [f"┏{'┳'.join(above)}┓", f"┃{'┃'.join(padded[0])}┃", f"┡{'╇'.join(above)}┩"]
    lines += [f"│{'│'.join(row)}│" for row in padded[1:]]
    click.echo("\n".join([*lines, f"└{'┴'.join(below)}┘"]))


def _print_by_rich(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from ppfl.status.show import wide_console

    table = Table(*map(escape, header))
    for row in rows:
        table.add_row(*map(Text, row))
    wide_console().print(table)
