"""`ppfl pack`: all runs of a grid at once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ppfl.cli.options import config_argument, overrides_option
from ppfl.config.deferred import defer_torch
from ppfl.jobs.launcher import launched_as
from ppfl.jobs.stopping import StopSignals

if TYPE_CHECKING:
    from ppfl.config.run import Config
    from ppfl.jobs.launcher import LaunchedAs
    from ppfl.pack.budget import Budget


@click.command()
@config_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where results go, one <digest>.h5 a run. Default: results/<name>",
)
@overrides_option
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Runs at the same time. Default: one a core, where they share GPUs as many as these have memory for.",
)
@click.option("--part", metavar="K/N", help="Take the runs K, K + N, K + 2N, … of the grid, for job arrays.")
@click.option(
    "--no-wait",
    is_flag=True,
    help="End when no run is free, though others may still be at work on some: for job arrays.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop before so much time has passed. The end of the Slurm job around it counts anyway.",
)
@click.option(
    "--ranks-per-run",
    type=click.IntRange(min=1),
    default=1,
    metavar="R",
    help="MPI ranks of each run, started by srun inside a Slurm job, else by mpiexec. Default: 1, without MPI.",
)
def pack(
    config: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    jobs: int | None,
    part: str | None,
    no_wait: bool,
    time_limit: float | None,
    ranks_per_run: int,
) -> int:
    """Run all runs of a grid, several at once, without starting a program for each.

    Several packs may share a grid: start it on all hosts of an allocation, e.g. by srun or mpiexec. What is complete
    is not repeated, a diverged run is a result like any other, and a run that fails leaves <digest>.h5.failed.json and
    does not touch the others. Exit code: 0 all runs have ended, 1 some of them failed, 2 a mistake in what was given,
    75 stopped before the end (by SIGTERM, SIGUSR1, SIGHUP, Ctrl-C or the time limit), 76 by `ppfl stop`; start it
    again to continue. docs/packs.md
    """
    stop = StopSignals()
    _load_beside(out, ranks_per_run)
    from ppfl.config.grid import load_cells
    from ppfl.pack.cards import deal_to
    from ppfl.pack.command import choose_part, pack
    from ppfl.pack.environment import default_jobs
    from ppfl.pack.run_queue import ONE_RANK
    from ppfl.pack.steps import in_steps

    launched = _launched(ranks_per_run)
    cells = load_cells(config, overrides)
    first = next(iter(cells.values())).config
    if launched.rank == 0:
        _warn(first)
    folder = out or first.default_out().parent
    who = f"pack {launched.rank}: " if launched.size != 1 else ""
    tell = partial(_tell, who)
    chosen = choose_part(cells, part)
    configs = [cell.config for cell in chosen.values()]
    jobs, environment_of = deal_to(jobs or default_jobs(ranks_per_run), configs, ranks_per_run, launched.rank, tell)
    one_rank = replace(ONE_RANK, has_cards=bool(environment_of(0)))
    executor = one_rank if ranks_per_run == 1 else in_steps(config, overrides, ranks_per_run)
    budget = _budget(time_limit, stop)
    packed = pack(
        chosen, folder, jobs, tell, budget, launched, executor, waits=not no_wait, environment_of=environment_of
    )
    stop.ignore()
    counts = packed.counts
    click.echo(f"{who}{', '.join(f'{counts[status]} {status}' for status in sorted(counts))}: {folder}")
    return packed.exit_code


def _tell(who: str, line: str) -> None:
    click.echo(f"ppfl: {who}{line}", err=True)


def _load_beside(out: Path | None, ranks_per_run: int) -> None:
    # the parent of a pack never computes: its children load torch, once for all of them
    defer_torch()
    if out is not None and ranks_per_run == 1:
        from ppfl.pack.early import load_for

        load_for(out)


def _launched(ranks_per_run: int) -> LaunchedAs:
    from ppfl.core.errors import UserError

    launched = launched_as()
    if ranks_per_run > 1 and launched.size != 1:
        raise UserError("--ranks-per-run: starts ranks itself: start one pack, without mpiexec or srun")
    return launched


def _budget(time_limit: float | None, stop: StopSignals) -> Budget:
    from ppfl.pack.budget import Budget, seconds_left_of_job

    limits = [limit for limit in (time_limit, seconds_left_of_job()) if limit is not None]
    return Budget(min(limits, default=None), stop)


def _warn(config: Config) -> None:
    from ppfl.jobs.gpus_in_vain import in_vain

    if vain := in_vain(config.device):
        click.echo(f"ppfl: warning: {vain}", err=True)
