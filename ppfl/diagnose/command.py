"""`ppfl diagnose`: from a configuration or a result, and candidate splits, to one diagnosis for each split."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppfl.config.run import load, validate
from ppfl.config.yaml_file import set_path
from ppfl.core.agree import SharedUserError, on_every_rank
from ppfl.core.errors import UserError
from ppfl.diagnose.measure import measure
from ppfl.diagnose.table import write_json
from ppfl.diagnose.verdict import diagnosis
from ppfl.engine.choose import open_engine
from ppfl.interfaces.objective import frozen_of
from ppfl.interfaces.personal_aggregates import PersonalAggregates
from ppfl.interfaces.remembering import Remembering
from ppfl.jobs.launcher import open_communicator
from ppfl.results.parameters import load_local, load_shared
from ppfl.results.reader import open_result
from ppfl.runs.assemble import build

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ppfl.config.run import Config
    from ppfl.core.communicator import Communicator
    from ppfl.core.types import Params
    from ppfl.diagnose.verdict import Diagnosis
    from ppfl.engine.setup import Setup
    from ppfl.runs.progress import Progress

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Plan:
    """What is to be diagnosed: one configuration a split; `result` is the file that θ̂ is taken from, if any."""

    source: Path
    configs: tuple[Config, ...]
    result: Path | None = None
    trains: bool = False
    """True when the user said for how many rounds to train."""


@dataclass(frozen=True)
class _End:
    """θ̂, how it came about, and where each client's w stood."""

    shared: Params
    local: Callable[[int], Params]
    status: str
    rounds: int


def plan(source: Path, splits: Sequence[str], rounds: int | None) -> Plan:
    """Read and check everything that needs no data. Raises UserError for what the user can mend."""
    if _is_hdf5(source):
        option = "--split" if splits else "--rounds"
        if splits or rounds is not None:
            raise UserError(
                f"{option}: not with a result, whose θ belongs to its own split and rounds; give its config"
            )
        result = open_result(source)
        return Plan(source, (validate(result.config, source.parent, str(source)),), source)
    base = load(source, () if rounds is None else (f"rounds={rounds}",))
    configs = tuple(_with_split(base, source, split) for split in splits) or (base,)
    return Plan(source, configs, trains=rounds is not None)


def run(what: Plan, json_file: Path | None, progress: Progress) -> list[Diagnosis]:
    """Diagnose every split; write JSON on rank 0. Collective. Raises UserError for what the user can mend."""
    communicator = open_communicator()
    rank = communicator.rank
    if json_file is not None:
        on_every_rank(communicator, lambda: _check_writable(json_file) if rank == 0 else None)
    found = [diagnose(config, communicator, progress, what) for config in what.configs]
    if json_file is not None:
        on_every_rank(communicator, lambda: write_json(json_file, str(what.source), found) if rank == 0 else None)
    return found


def diagnose(config: Config, communicator: Communicator, progress: Progress, what: Plan) -> Diagnosis:
    """ρ = σ²(θ̂)/σ²(θ₀) of one configuration. Collective."""
    config = config.model_copy(update={"evaluate": config.evaluate.of_everything()})
    setup = build(config, communicator)
    problem = setup.problem
    if problem.theory.solution() is not None:
        if what.trains:
            raise SharedUserError("--rounds: nothing to train: ρ of this problem is exact, evaluated at its known θ*")
        # gradients that vanish are told from those that do not by their last digits
        setup = build(config.model_copy(update={"precision": "float64"}), communicator)
    initial = setup.problem.objective.init_shared()
    _refuse_untrained(setup, initial)
    end = _end(setup, config, progress, what)
    first_draw = config.rounds + 1
    at_start = measure(setup, initial, setup.problem.objective.init_local, first_draw)
    at_end = measure(setup, end.shared, end.local, first_draw)
    names = (tuple(initial), problem.local_names)
    return diagnosis(names, at_start, at_end, end.status, end.rounds)


def _refuse_untrained(setup: Setup, initial: Params) -> None:
    """Refuse methods whose θ stays where it begins: its ρ would be that of no training."""
    algorithm = setup.algorithm
    if not initial or algorithm.branches_on_server:
        return
    if isinstance(algorithm, PersonalAggregates):
        raise SharedUserError(
            f"algorithm.name: {algorithm.name} gives each client a θ of its own, so that θ stays where it begins and "
            "has no ρ; allowed: a method that trains one θ for all, such as ffgg"
        )
    if not algorithm.uplink_like(algorithm.init_server(initial, setup.server_optimizer)):
        raise SharedUserError(
            f"algorithm.name: {algorithm.name} sends nothing, so that θ stays where it begins and has no ρ; allowed: a "
            "method that trains what is shared, such as ffgg"
        )


def _end(setup: Setup, config: Config, progress: Progress, what: Plan) -> _End:
    problem = setup.problem
    solution = problem.theory.solution()
    if solution is not None:
        return _End(solution, problem.objective.init_local, "exact", 0)
    if what.result is not None:
        return _end_of_result(setup, config, what.result)
    engine = open_engine(setup)
    progress.start(config.rounds)
    done = 0
    for scored in engine:
        done = scored.round
        progress.update(done, {k: v for k, v in scored.metrics.items() if isinstance(v, float)})
    progress.finish(engine.status, what.source)
    if isinstance(problem.client_data, Remembering):
        # the data know the laws of who was computed last, which is up to the ranks, and a result has none
        problem.client_data.recall({})

    def local(client: int) -> Params:
        mine = engine.group.state(client)["local"]
        return mine if mine.keys() == set(problem.local_names) else problem.objective.init_local(client)

    return _End(engine.server["shared"], local, engine.status, done)


def _end_of_result(setup: Setup, config: Config, path: Path) -> _End:
    """Load θ̂ and, where they were saved, the local parameters. Collective."""
    problem, communicator = setup.problem, setup.communicator
    result = open_result(path)
    like = {**problem.objective.init_shared(), **frozen_of(problem.objective)}
    saved = on_every_rank(communicator, lambda: _suitable(load_shared(path), like, path))
    shared = {name: saved[name].to(setup.device) for name in problem.objective.init_shared()}
    clients = on_every_rank(communicator, lambda: load_local(path) if config.save.local else {})

    def local(client: int) -> Params:
        like = problem.objective.init_local(client)
        mine = clients.get(client, {})
        # beside w lies θ_m where clients deploy one of their own, as of Ditto
        return {name: mine[name].to(setup.device) for name in like} if mine.keys() >= like.keys() else like

    return _End(shared, local, str(result.attrs["status"]), int(result.rounds["round"].to_numpy()[-1]))


def _suitable(saved: Params, like: Params, path: Path) -> Params:
    shapes, wanted = ({name: tuple(value.shape) for name, value in params.items()} for params in (saved, like))
    if shapes != wanted:
        raise UserError(f"{path}: its θ has the shapes {shapes}, but its configuration now means {wanted}")
    return saved


def _with_split(base: Config, source: Path, split: str) -> Config:
    globs = [glob.strip() for glob in split.split(",") if glob.strip()]
    document: dict[str, Any] = set_path(base.model_dump(mode="json"), "problem.split.local", globs)
    return validate(document, source.parent, f"--split {split!r}")


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE
    except OSError:
        return False  # whoever reads it as YAML says what is wrong


def _check_writable(path: Path) -> None:
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"--json {path}: cannot be written; give a file in a folder that exists and can be written")
