"""`ppfl timeline`: who computes and sends when, in one run."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.cli.options import overrides_option
from ppfl.jobs.launcher import launched_as


@click.command()
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@overrides_option
@click.option("--cell", metavar="DIGEST", help="Which run of a file with many: the beginning of its digest.")
@click.option(
    "--rounds", type=click.IntRange(min=1), metavar="N", help="How many, or arrivals. Default: what is legible."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FIGURE",
    help="Where to write it: .png, .pdf, .svg.",
)
def timeline(source: Path, overrides: tuple[str, ...], cell: str | None, rounds: int | None, out: Path) -> int:
    """Draw who downloads, computes, uploads, drops out and comes too late, on the virtual clock.

    SOURCE is a result or a configuration file, whose run need not have been computed. Of an asynchronous run with real
    messages, or of a replay, it is a result: what is drawn then is its log.
    """
    # here, so that other commands need not wait for matplotlib
    from ppfl.analysis.figure import save_figure
    from ppfl.analysis.plot import check_format
    from ppfl.analysis.timeline import draw_timeline, history_of

    out = check_format(out)
    history = history_of(source, overrides, cell, rounds)
    # all ranks know all of it: one of them draws
    if launched_as().rank == 0:
        save_figure(draw_timeline(history), [out])
        click.echo(out)
    return 0
