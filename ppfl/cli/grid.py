"""`ppfl grid`: which runs a file holds."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ppfl.cli.options import config_argument, overrides_option
from ppfl.config.deferred import defer_numpy, defer_torch
from ppfl.core.collector import without_collector
from ppfl.jobs.launcher import launched_as

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.config.grid import Cell


@click.command()
@config_argument
@overrides_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: digest, what varies and default result file of each run."
)
def grid(config: Path, overrides: tuple[str, ...], as_json: bool) -> int:
    """List the runs of a file: the digest of each, and what varies between them."""
    defer_torch()
    defer_numpy()
    with without_collector():
        from ppfl.config.grid import load_cells

        cells = list(load_cells(config, overrides).values())
        if launched_as().rank == 0:
            _print_json(cells) if as_json else _print_table(cells)
        gc.freeze()  # nor when the process ends
    return 0


def _print_json(cells: Sequence[Cell]) -> None:
    rows = [{"digest": cell.digest, "varying": cell.varying, "out": str(cell.config.default_out())} for cell in cells]
    click.echo(json.dumps(rows, indent=1))


def _print_table(cells: Sequence[Cell]) -> None:
    from ppfl.cli.rows import print_rows
    from ppfl.config.errors import show_value

    paths = list(dict.fromkeys(path for cell in cells for path in cell.varying))
    rows = [
        (cell.digest, *(show_value(cell.varying[path]) if path in cell.varying else "" for path in paths))
        for cell in cells
    ]
    print_rows(("digest", *paths), rows)
