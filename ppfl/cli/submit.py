"""`ppfl submit`: a job for Slurm."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.cli.options import config_argument, overrides_option
from ppfl.config.deferred import defer_torch

_COUNT = click.IntRange(min=1)


@click.command()
@config_argument
@overrides_option
@click.option("--cell", metavar="DIGEST", help="One run of a grid: its digest, or a unique beginning of it.")
@click.option("--ranks", type=_COUNT, metavar="N", help="MPI ranks. Default: one, or one a GPU asked for.")
@click.option("--nodes", type=_COUNT, metavar="N", help="Nodes. Default: as few as the GPUs need, else as Slurm likes.")
@click.option("--gpus-per-node", type=_COUNT, metavar="N", help="GPUs of a node to use. Default: as Slurm likes.")
@click.option("--ranks-per-gpu", type=_COUNT, metavar="N", help="Ranks that share a GPU. Default: 1.")
@click.option("--cpu", is_flag=True, help="No GPUs. Implied by engine.device: cpu.")
@click.option("--cpus-per-rank", type=_COUNT, default=1, show_default=True, metavar="N", help="CPUs of a rank.")
@click.option("--mem", metavar="SIZE", help="Memory of each rank, e.g. 900M or 4G. Default: an estimate.")
@click.option(
    "--time",
    default="01:00:00",
    show_default=True,
    metavar="TIME",
    help="Time limit as Slurm writes it, e.g. 30 (minutes) or 1-12:00:00.",
)
@click.option("--array", type=_COUNT, metavar="N", help="Share the runs of a grid among N jobs, each run on all ranks.")
@click.option("--partition", metavar="NAME", help="Default: as slurm/env.sh says, else Slurm's.")
@click.option("--account", metavar="NAME", help="Default: as slurm/env.sh says, else Slurm's.")
@click.option("--dry-run", is_flag=True, help="Print the script instead of submitting it.")
def submit(
    config: Path,
    overrides: tuple[str, ...],
    cell: str | None,
    dry_run: bool,
    cpu: bool,
    mem: str | None,
    **resources: int | str | None,
) -> int:
    """Submit a run, or all runs of a grid, to Slurm, and print the id of the job.

    The job is slurm/run.sbatch, or slurm/grid.sbatch for a grid, with the resources asked for: one rank per GPU unless
    told otherwise. What no node or partition can give is refused. A job that reaches its time limit, is preempted or
    loses a node goes back to the queue and continues.
    """
    defer_torch()
    from ppfl.config.grid import choose_cell, load_cells
    from ppfl.submit.cluster import megabytes
    from ppfl.submit.command import Work
    from ppfl.submit.command import submit as submit_job
    from ppfl.submit.request import request

    cells = load_cells(config, overrides)
    chosen = choose_cell(config, overrides, cell) if cell is not None else None
    configs = (chosen.config,) if chosen else tuple(one.config for one in cells.values())
    is_grid = any(one.varying for one in cells.values())
    work = Work(config, overrides, configs, chosen.digest if chosen else None, is_grid)
    cpu = cpu or all(one.engine.device == "cpu" for one in configs)
    asked = request(cpu=cpu, mem_mb=None if mem is None else megabytes(mem), **resources)  # type: ignore[arg-type]
    click.echo(
        submit_job(work, asked, dry_run=dry_run, tell=lambda line: click.echo(f"ppfl: {line}", err=True)),
        nl=not dry_run,
    )
    return 0
