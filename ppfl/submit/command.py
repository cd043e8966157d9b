"""`ppfl submit`: the script of a job, checked and handed to Slurm."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.gpus_in_vain import torch_without_gpus, without
from ppfl.submit import cluster
from ppfl.submit.script import script, scripts_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ppfl.config import Config
    from ppfl.submit.request import Request


@dataclass(frozen=True)
class Work:
    """What a job is to do: one run of a file, or all of them when `cell` is None."""

    path: Path
    overrides: tuple[str, ...]
    configs: tuple[Config, ...]
    cell: str | None
    is_grid: bool

    def arguments(self) -> list[str]:
        """Return the arguments of `ppfl run` or `ppfl pack`."""
        overrides = [part for override in self.overrides for part in ("--set", override)]
        return [str(self.path), *overrides, *([] if self.cell is None else ["--cell", self.cell])]


_OF_THE_SCRIPTS = {
    f"SBATCH_{name}" for name in ("JOB_NAME", "OUTPUT", "SIGNAL", "REQUEUE", "NO_REQUEUE", "OPEN_MODE", "TIMELIMIT")
}
"""What the lines of slurm/*.sbatch say."""


def submit(work: Work, asked: Request, *, dry_run: bool, tell: Callable[[str], None]) -> str:
    """Return the id of the new job, or the text of its script when it is not to be submitted.

    Raises UserError for a request that cannot fit, and when Slurm refuses it or does not answer.
    """
    is_grid = work.is_grid and work.cell is None
    if asked.array is not None and not is_grid:
        raise UserError("--array: for grids alone; this is one run")
    if not is_grid or asked.array is not None:
        _check_ranks(asked.ranks, work.configs)
    folder = scripts_folder()
    site = cluster.site(folder, os.environ)
    partition, account = (
        given or site.get(f"SBATCH_{name}") or None
        for given, name in ((asked.partition, "PARTITION"), (asked.account, "ACCOUNT"))
    )
    asked = replace(asked, partition=partition, account=account)
    # sbatch prefers its environment to the script, which is to win in what it says
    said = {_variable(option) for option, value in asked.directives().items() if value is not None} | _OF_THE_SCRIPTS
    environment = {key: value for key, value in {**os.environ, **site}.items() if key not in said}
    try:
        cluster.check(asked, cluster.partition(asked.partition, environment))
    except cluster.NoAnswerError as error:
        if not dry_run:
            raise
        tell(f"not checked whether this fits the partition: {error}")
    if asked.ranks_per_gpu is not None and (version := torch_without_gpus()):
        tell(f"warning: GPUs are asked for, and the job would compute on the CPU: {without(version)} (--cpu)")
    text = script(folder, "grid.sbatch" if is_grid else "run.sbatch", asked.directives(), work.arguments())
    if dry_run:
        return text
    return cluster.ask(["sbatch", "--parsable"], environment, text).strip().partition(";")[0]


def _variable(option: str) -> str:
    return "SBATCH_TIMELIMIT" if option == "time" else f"SBATCH_{option.upper().replace('-', '_')}"


def _check_ranks(ranks: int, configs: Sequence[Config]) -> None:
    """Refuse ranks that would have no client, where the configuration says how many clients there are."""
    for config in configs:
        clients = known_clients(config)
        if clients is None:
            continue
        chunks = -(-clients // (config.engine.clients_per_chunk or 1))
        if ranks > chunks:
            raise UserError(
                f"--ranks {ranks}: {config.name} has {clients} clients in {chunks} chunk(s), and every rank needs one; "
                f"at most --ranks {chunks}"
            )


def known_clients(config: Config) -> int | None:
    """Return the number of clients when the configuration says it; a data file may be what knows."""
    return config.problem.known_clients
