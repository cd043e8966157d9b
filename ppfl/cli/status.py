"""`ppfl status`: what has become of the runs of a grid."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ppfl.cli.options import overrides_option, results_option
from ppfl.config.deferred import defer_torch
from ppfl.jobs.launcher import launched_as


@click.command()
@click.argument("grid", metavar="CONFIG|FOLDER", type=click.Path(path_type=Path))
@results_option
@overrides_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: counts, and everything known of every run.")
@click.option("--watch", is_flag=True, help="Go on until nobody is at work and no job is queued.")
def status(grid: Path, results: Path | None, overrides: tuple[str, ...], as_json: bool, watch: bool) -> int:
    """Show which runs are done, running, stopped, failed, stale or missing, from the files beside their results.

    done: complete or diverged. running: with round, rounds a second and time left. stopped: has a checkpoint, and
    continues when it is started again. failed: with the reason of the last attempt. stale: claimed by a process that
    is dead; whoever starts it next takes it over. A FOLDER knows of no missing runs. Where squeue answers, jobs that
    are queued for runs are shown with the reason why they wait.
    """
    defer_torch()
    from ppfl.core.errors import UserError
    from ppfl.status.show import wide_console
    from ppfl.status.survey import find_runs
    from ppfl.status.view import render
    from ppfl.status.watch import watch as watch_runs

    if launched_as().rank != 0:
        return 0
    if watch and as_json:
        raise UserError("--json: is for one look; leave --watch out")
    runs = find_runs(grid, results, overrides)
    if watch:
        watch_runs(runs, wide_console())
    elif as_json:
        click.echo(json.dumps(runs.survey().as_json(), indent=1))
    else:
        wide_console().print(render(runs.survey()))
    return 0
