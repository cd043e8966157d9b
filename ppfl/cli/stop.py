"""`ppfl stop`: have runs save their state and end."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.cli.options import overrides_option, results_option
from ppfl.config.deferred import defer_torch


@click.command()
@click.argument("target", metavar="CONFIG|RESULT|FOLDER|JOB")
@overrides_option
@click.option("--cell", metavar="DIGEST", help="One run of a grid: its digest, or a unique beginning of it.")
@results_option
@click.option("--requeue", is_flag=True, help="The job goes back to the queue, and continues when it is started again.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the end of the runs.",
)
def stop(
    target: str, overrides: tuple[str, ...], cell: str | None, results: Path | None, requeue: bool, wait: float
) -> int:
    """Have runs save their state and end, wherever they are computed: started again, they continue.

    CONFIG: all runs of the file that somebody is at work on, and the packs that take its runs. RESULT: one run. FOLDER:
    all runs in it. JOB: what a job of Slurm is at work on. The runs end after their present round; a job ends with exit
    code 76 and does not come back by itself, unless --requeue says so.

    Exit codes: 0 all have ended, or nobody was at work; 1 some still compute after the time given, or Slurm does not
    cancel what waits; 2 a mistake in the command.
    """
    defer_torch()
    from ppfl.attempts.find import find, is_job
    from ppfl.attempts.stop import stop as stop_runs
    from ppfl.attempts.stop import stop_job
    from ppfl.core.errors import UserError

    if not is_job(target):
        meant = find(Path(target), overrides, cell, results)
        return 0 if stop_runs(meant, requeue=requeue, seconds=wait, tell=click.echo) else 1
    if cell is not None or overrides or results is not None:
        raise UserError(f"{target}: --cell, --set and --results are for a configuration file")
    return 0 if stop_job(target, requeue=requeue, seconds=wait, tell=click.echo) else 1
