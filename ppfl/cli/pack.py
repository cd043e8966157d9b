"""`ppfl pack`: all runs of a grid at once."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.cli.options import config_argument, overrides_option
from ppfl.deferred import defer_torch


@click.command()
@config_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where results go, one <digest>.h5 a run. Default: results/<name>",
)
@overrides_option
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Child processes. Default: one a core.")
def pack(config: Path, out: Path | None, overrides: tuple[str, ...], jobs: int | None) -> int:
    """Run all runs of a grid on this machine, several at once, without starting a program for each.

    What is complete is not repeated. A run that fails leaves <digest>.failed.txt and does not touch the others; the
    exit code is 1 then. A diverged run is a result like any other. Not to be started by mpiexec.
    """
    defer_torch()
    from ppfl.grid import load_cells
    from ppfl.pack.command import default_jobs, pack

    cells = load_cells(config, overrides)
    folder = out or next(iter(cells.values())).config.default_out().parent
    counts = pack(cells, folder, jobs or default_jobs(), lambda line: click.echo(f"ppfl: {line}", err=True))
    click.echo(f"{', '.join(f'{counts[status]} {status}' for status in sorted(counts))}: {folder}")
    return 1 if counts["failed"] else 0
