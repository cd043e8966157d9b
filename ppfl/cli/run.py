"""`ppfl run`: one experiment."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ppfl.cli.group import end_together
from ppfl.cli.options import config_argument, overrides_option
from ppfl.core.collector import while_torch_is_loaded, without_collector
from ppfl.jobs.launcher import launched_as
from ppfl.jobs.stopping import ON_REQUEST, STOPPED, STOPPED_ON_REQUEST, StopSignals

if TYPE_CHECKING:
    from ppfl.config.run import Config
    from ppfl.jobs.supervisor import Report


@click.command()
@config_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the result. Default: results/<name>/<digest>.h5",
)
@overrides_option
@click.option(
    "--deliver",
    is_flag=True,
    help="Compute in the folder `running` beside FILE, put only a finished result to FILE, and wait where another job"
    " is at work on it: for workflow systems, to which a file that is there is done.",
)
@click.option("--cell", metavar="DIGEST", help="Which run of a grid: its digest, or a unique beginning of it.")
def run(config: Path, out: Path | None, overrides: tuple[str, ...], deliver: bool, cell: str | None) -> int:
    """Run one experiment and write its result.

    Of a file with a grid, --cell says which run; `ppfl grid CONFIG` lists them. A complete result of the same run ends
    the command with "already done", an unfinished one goes on from its last checkpoint, and that of another run is an
    error. SIGUSR1, SIGTERM, SIGHUP and Ctrl-C save the state and end the command with exit code 75, `ppfl stop` with
    76: start it again to continue. A second Ctrl-C ends it at once, with 130.

    Exit codes: 0 done or already done, 1 or that of a signal a failure, 2 a mistake in the configuration or the command
    or another job at work on the run, 75 stopped by a signal with everything saved, 76 stopped by `ppfl stop`, 130
    interrupted.
    """
    from ppfl.jobs.supervisor import Report, fork_rank

    launched = launched_as()
    # before the configuration is read, which may take seconds: a signal in between must not end the process without a
    # word
    stop = StopSignals()
    # before anything heavy is imported: what the fork shares is small, and neither torch nor MPI knows of it
    report = Report() if launched.size == 1 else fork_rank(launched.rank)
    with report:
        with while_torch_is_loaded():
            from ppfl.config.grid import choose_cell, show_varying

        found = choose_cell(config, overrides, cell)
        out = out or found.config.default_out()
        report.about(out, found.config.digest, show_varying(found.varying))
        return _run(found.config, out, show_varying(found.varying), stop, report, delivers=deliver)


def _run(config: Config, out: Path, varying: str, stop: StopSignals, report: Report, *, delivers: bool) -> int:
    with without_collector():
        from ppfl.jobs.attempt import Caller
        from ppfl.jobs.gpus_in_vain import in_vain
        from ppfl.runs.experiment import run as run_experiment
        from ppfl.runs.progress import Bar, choose_progress, show_warnings

    rank = launched_as().rank
    show_warnings(rank)
    if vain := in_vain(config.device):
        logging.getLogger("ppfl").warning(vain)
    progress = choose_progress(rank)
    caller = Caller(varying, stop, report.told, delivers=delivers, cleans=True)
    try:
        status = run_experiment(config, out, progress, caller=caller)
    finally:
        if isinstance(progress, Bar):
            progress.close()
    # all is saved: a late signal would turn a result into an exit code of failure
    stop.ignore()
    if status in ("stopped", ON_REQUEST):
        code = STOPPED_ON_REQUEST if status == ON_REQUEST else STOPPED
        where = f"round {max(report.round, 0)} of {config.rounds}"
        return end_together(code, f"{status} at {where}; start again to continue")
    if rank == 0:
        click.echo(f"{status}: {out}")
    return 0
