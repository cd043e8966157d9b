"""`ppfl collect`: the results of a grid in one file."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.cli.options import overrides_option, results_option
from ppfl.config.deferred import defer_torch


@click.command()
@click.argument("grid", metavar="GRID", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The file to write (.h5).")
@results_option
@overrides_option
@click.option("--clients", is_flag=True, help="Keep series with one number a client; all runs need the same clients.")
def collect(grid: Path, out: Path, results: Path | None, overrides: tuple[str, ...], clients: bool) -> int:
    """Collect the results of a grid in one file whose dimensions are what varies.

    GRID is a configuration file or a folder of results. Runs that failed, are running or missing are in the file and
    marked by its variable `status`. docs/results.md describes the file.
    """
    defer_torch()
    from ppfl.analysis.collect import collect as collect_runs
    from ppfl.analysis.sources import open_source

    source = open_source(grid, results, overrides)
    sizes = collect_runs(source, out, with_clients=clients)
    for line in source.warnings():
        click.echo(f"ppfl: {line}", err=True)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(source.statuses.items()))
    click.echo(f"{counts}; {', '.join(f'{name} {size}' for name, size in sizes.items())}: {out}")
    return 0
