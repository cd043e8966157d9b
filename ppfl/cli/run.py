"""`ppfl run`: one experiment."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.cli.options import config_argument, overrides_option
from ppfl.launcher import launched_as


@click.command()
@config_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the result. Default: results/<name>/<digest>.h5",
)
@overrides_option
@click.option("--cell", metavar="DIGEST", help="Which run of a grid: its digest, or a unique beginning of it.")
def run(config: Path, out: Path | None, overrides: tuple[str, ...], cell: str | None) -> int:
    """Run one experiment and write its result.

    Of a file with a grid, --cell says which run; `ppfl grid CONFIG` lists them. An existing result is never
    overwritten: a complete one of the same run ends the command with "already done", an incomplete one is moved
    aside, and that of another run is an error.
    """
    from ppfl.grid import choose_cell

    chosen = choose_cell(config, overrides, cell).config
    out = out or chosen.default_out()
    rank = launched_as().rank

    from ppfl.experiment import run as run_experiment
    from ppfl.progress import Bar, choose_progress, show_warnings

    show_warnings(rank)
    progress = choose_progress(rank)
    try:
        status = run_experiment(chosen, out, progress)
    finally:
        if isinstance(progress, Bar):
            progress.close()
    if rank == 0:
        click.echo(f"{status}: {out}")
    return 0
