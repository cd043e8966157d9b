"""`ppfl submit`: the script of a job, checked and handed to Slurm."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.jobs.gpus_in_vain import ON_CPU, torch_without_gpus, without
from ppfl.jobs.slurm import NoAnswerError, ask
from ppfl.jobs.starts import refuse_missing_starts
from ppfl.submit import cluster
from ppfl.submit.memory import memory_mb
from ppfl.submit.script import script, scripts_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ppfl.config.run import Config
    from ppfl.submit.request import Request


@dataclass(frozen=True)
class Work:
    """What a job is to do: one run of a file, or all of them when `cell` is None."""

    path: Path
    overrides: tuple[str, ...]
    configs: tuple[Config, ...]
    cell: str | None
    is_grid: bool

    @property
    def comment(self) -> str:
        """By which `ppfl status` knows the job."""
        return ":".join(["ppfl", self.configs[0].name, *([] if self.cell is None and self.is_grid else [self.digest])])

    @property
    def digest(self) -> str:
        """Of the one run."""
        return self.cell or self.configs[0].digest

    def arguments(self) -> list[str]:
        """Return the arguments of `ppfl run` or `ppfl pack`."""
        overrides = [part for override in self.overrides for part in ("--set", override)]
        return [str(self.path), *overrides, *([] if self.cell is None else ["--cell", self.cell])]


_MEMORY = {f"SBATCH_MEM_PER_{what}" for what in ("CPU", "GPU", "NODE")}
_OF_THE_SCRIPTS = {
    f"SBATCH_{name}"
    for name in ("COMMENT", "JOB_NAME", "OUTPUT", "SIGNAL", "REQUEUE", "NO_REQUEUE", "OPEN_MODE", "TIMELIMIT")
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
    refuse_missing_starts((config, config.default_out()) for config in work.configs)
    folder = scripts_folder()
    site = cluster.site(folder, os.environ)
    partition, account = (
        given or site.get(f"SBATCH_{name}") or None
        for given, name in ((asked.partition, "PARTITION"), (asked.account, "ACCOUNT"))
    )
    asked = replace(asked, partition=partition, account=account)
    # sbatch prefers its environment to the script, which is to win in what it says
    said = {_variable(option) for option, value in asked.directives().items() if value is not None}
    said |= _OF_THE_SCRIPTS | (_MEMORY if asked.mem_mb is not None else set())
    # the lines of env.sh win over the caller's environment, as they do inside of the job
    environment = {key: value for key, value in {**os.environ, **site}.items() if key not in said}
    try:
        found = cluster.partition(asked.partition, environment)
        if found.counts_memory:
            asked = _with_memory(asked, work, environment, tell)
        cluster.check(asked, found)
    except NoAnswerError as error:
        if not dry_run:
            raise
        tell(f"not checked whether this fits the partition: {error}")
    if asked.ranks_per_gpu is not None and (version := torch_without_gpus()):
        tell(f"warning: GPUs are asked for, and the job would compute on the CPU: {without(version)} (--cpu)")
    elif asked.ranks_per_gpu is not None and all(config.device == "cpu" for config in work.configs):
        tell(f"warning: GPUs are asked for, and the job would compute on the CPU: {ON_CPU} (--cpu)")
    directives = {**asked.directives(), "comment": work.comment}
    text = script(folder, "grid.sbatch" if is_grid else "run.sbatch", directives, work.arguments())
    if dry_run:
        return text
    # by standard input: no file is left over, and sbatch keeps a copy of the script itself
    return ask(["sbatch", "--parsable"], environment, text).strip().partition(";")[0]


def _with_memory(asked: Request, work: Work, environment: Mapping[str, str], tell: Callable[[str], None]) -> Request:
    """Fill in what a rank needs by our estimate, unless somebody says what it gets; warn when that is less."""
    if asked.mem_mb is not None:
        return asked
    gpus = asked.ranks_per_gpu is not None
    if work.is_grid and work.cell is None and asked.array is None:
        # a pack does as many runs at once as it has CPUs, each in a process of its own
        alone = memory_mb(work.configs, 1, gpus=gpus)
        needed = None if alone is None else (asked.cpus_per_rank + 1) * alone
    else:
        needed = memory_mb(work.configs, asked.ranks, gpus=gpus)
    site = {name: environment[name] for name in _MEMORY if environment.get(name)}
    if needed is None or not site:
        return replace(asked, mem_mb=needed)
    given = site.get("SBATCH_MEM_PER_CPU")
    if given is not None and cluster.megabytes(given) * asked.cpus_per_rank < needed:
        tell(f"SBATCH_MEM_PER_CPU={given}: a rank needs about {needed} MB by our estimate; --mem {needed}M asks for it")
    return asked


def _variable(option: str) -> str:
    return "SBATCH_TIMELIMIT" if option == "time" else f"SBATCH_{option.upper().replace('-', '_')}"


def _check_ranks(ranks: int, configs: Sequence[Config]) -> None:
    """Refuse ranks that would have no client, where the configuration says how many clients there are."""
    for config in configs:
        clients = config.known_clients
        if clients is None:
            continue
        chunks = -(-clients // (config.engine.clients_per_chunk or 1))
        if ranks > chunks:
            raise UserError(
                f"--ranks {ranks}: {config.name} has {clients} clients in {chunks} chunk(s), and every rank needs one; "
                f"at most --ranks {chunks}"
            )
