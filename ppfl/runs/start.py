"""What a run starts from, and the problem that begins there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.agree import on_every_rank
from ppfl.core.errors import UserError
from ppfl.interfaces.objective import frozen_of
from ppfl.interfaces.started import started
from ppfl.jobs.starts import command_of, why_not_ready
from ppfl.results.parameter_files import ParameterFiles
from ppfl.results.start_values import StartValues

if TYPE_CHECKING:
    from pathlib import Path

    from ppfl.config.run import Config
    from ppfl.core.communicator import Communicator
    from ppfl.interfaces.problem import Problem


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
        values.check(shared, local, data.clients, data.client_names)
        _refuse_proximal(config, values.own_names(local))
        return values

    values = on_every_rank(communicator, read)
    return started(problem, values), values.files.of_the_run


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
