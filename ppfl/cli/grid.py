"""`ppfl grid`: which runs a file holds."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    rows = [
        {"digest": cell.digest, "varying": cell.varying, "out": str(cell.config.default_out()), **_start_of(cell)}
        for cell in cells
    ]
    click.echo(json.dumps(rows, indent=1))


def _print_table(cells: Sequence[Cell]) -> None:
    from ppfl.cli.rows import print_rows
    from ppfl.config.errors import show_value

    paths = list(dict.fromkeys(path for cell in cells for path in cell.varying))
    starts = [_start_of(cell).get("start") for cell in cells]
    has_start = any(start is not None for start in starts)
    rows = [
        (
            cell.digest,
            *(show_value(cell.varying[path]) if path in cell.varying else "" for path in paths),
            *([_told(start)] if has_start else []),
        )
        for cell, start in zip(cells, starts, strict=True)
    ]
    print_rows(("digest", *paths, *(["start"] if has_start else [])), rows)


def _start_of(cell: Cell) -> dict[str, dict[str, Any]]:
    """Return which run a run starts from, where its result is to be, and whether there is one."""
    run = cell.config.start.run if cell.config.start is not None else None
    if run is None:
        return {}
    return {"start": {"digest": run.digest, "result": str(run.result), "is_there": run.result.exists()}}


def _told(start: dict[str, Any] | None) -> str:
    return "" if start is None else start["digest"] if start["is_there"] else f"{start['digest']} (missing)"
