"""`ppfl log`: what a run has said."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.cli.options import overrides_option, results_option
from ppfl.config.deferred import defer_torch


@click.command()
@click.argument("run", metavar="RUN")
@overrides_option
@click.option("--cell", metavar="DIGEST", help="Which run of a grid: its digest, or a unique beginning of it.")
@results_option
@click.option("--try", "number", type=click.IntRange(min=1), metavar="N", help="Which attempt. Default: the last.")
@click.option("--follow", is_flag=True, help="Go on while somebody is at work on the run.")
def log(
    run: str, overrides: tuple[str, ...], cell: str | None, results: Path | None, number: int | None, follow: bool
) -> int:
    """Show the log of a run, whoever computes it: by hand, in a job, in a pack, under Snakemake.

    RUN is a result, a configuration file (of one with a grid, --cell says which run), or the beginning of a digest.
    Each attempt has a log, logs/<digest>/try-N.log in the folder of the results; the last twenty are kept.
    """
    defer_torch()
    from ppfl.attempts.find import one_run
    from ppfl.attempts.log import how_it_ended, log_of, show

    places = one_run(run, overrides, cell, results)
    path, which = log_of(places, number)
    click.echo(f"ppfl: {which}", err=True)
    show(path, places, follow=follow, write=lambda text: click.echo(text, nl=False))
    if number is None:
        for line in how_it_ended(places):
            click.echo(f"ppfl: {line}", err=True)
    return 0
