"""What a run starts from, and the problem that begins there."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ppfl.core.agree import on_every_rank
from ppfl.core.errors import UserError
from ppfl.interfaces.objective import frozen_of
from ppfl.interfaces.started import started
from ppfl.jobs.starts import command_of, why_not_ready
from ppfl.results.parameter_files import ParameterFiles
from ppfl.results.start_values import StartValues

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ppfl.config.run import Config
    from ppfl.core.communicator import Communicator
    from ppfl.interfaces.problem import Problem

logger = logging.getLogger(__name__)


def begun(
    problem: Problem, config: Config, kept: Path | None, communicator: Communicator
) -> tuple[Problem, tuple[Path, ...]]:
    """Return the problem of a run, which begins where its section `start` says, and the files without which it could
    not do so again. Collective.

    kept: result of the run to start from, where checkpoints have kept it. Raises UserError on all ranks for what does
    not fit.
    """
    start = config.start
    if start is None:
        return problem, ()

    def read() -> StartValues:
        if start.run is None:
            assert start.safetensors is not None
            files = ParameterFiles.of_file(start.safetensors.path)
        else:
            result = kept or start.run.result
            if why := why_not_ready(result, start.run.digest):
                raise UserError(f"start: {why}; it comes from: {command_of(start.run)}")
            files = ParameterFiles.of_run(result)
        objective, data = problem.objective, problem.client_data
        frozen = frozen_of(objective)
        shared, local = {**frozen, **objective.init_shared()}, objective.init_local(data.clients.start)
        values = StartValues(start, files, (*objective.parameter_names, *frozen))
        values.check(shared, objective.init_local, data.clients, data.client_names)
        _refuse_proximal(config, values.own_names(local))
        return values

    values = on_every_rank(communicator, read)
    if problem.newcomers is not None:
        if communicator.rank == 0:
            _tell_known(problem.newcomers.client_data.client_names, values.files)
        problem = replace(problem, newcomers=started(problem.newcomers, values.of_newcomers))
    return started(problem, values), values.files.of_the_run


def _tell_known(newcomers: Sequence[str], files: ParameterFiles) -> None:
    """Warn where the other run has trained on those that are held out of this one."""
    if known := sorted(set(newcomers) & set(files.client_names)):
        more = f" and {len(known) - 1} others" if len(known) > 1 else ""
        logger.warning(
            "evaluate.newcomers: client %s%s trained in the run that this one starts from, %s: no newcomers to its "
            "parameters", known[0], more, files.where,
        )  # fmt: skip


def _refuse_proximal(config: Config, own: list[str]) -> None:
    training = getattr(config.problem, "training", None)
    if own and training is not None and training.proximal:
        raise UserError(
            f"problem.training.proximal: is {training.proximal:g}, but each client begins at its own {', '.join(own)}, "
            "and the term knows one start alone; allowed: null, or start.new with these names"
        )


def described(config: Config) -> str:
    """Say in words what a run starts from, for its provenance."""
    start = config.start
    assert start is not None
    if start.run is not None:
        return f"{start.run.result} ({start.run.digest})"
    assert start.safetensors is not None
    return f"{start.safetensors.path} (sha256 {start.safetensors.sha256})"
