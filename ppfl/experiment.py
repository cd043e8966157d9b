"""From a configuration to a result file: the one place where problem, method, engine, ranks and recorder meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from ppfl.config import RESULTS_VERSION
from ppfl.core.agree import SharedUserError, on_every_rank, on_first_rank
from ppfl.core.communicator import GuardedCommunicator
from ppfl.core.errors import UserError
from ppfl.core.problem import Placement
from ppfl.device import choose_device, describe_device
from ppfl.engine.byzantine import check_cohort
from ppfl.engine.choose import open_engine
from ppfl.engine.cohort import CohortSampler
from ppfl.engine.evaluate import STATISTICS, score_stages, summarize
from ppfl.engine.setup import Setup
from ppfl.engine.synchronous import Synchronous
from ppfl.launcher import open_communicator
from ppfl.provenance import describe_process, now
from ppfl.results.parameters import has_local, remove_parameters, save_local, save_shared
from ppfl.results.reader import open_result
from ppfl.results.recorder import Recorder, prepare, release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ppfl.config import Config
    from ppfl.core.communicator import Communicator
    from ppfl.core.problem import Problem, ProblemSettings
    from ppfl.engine.choose import AnyEngine
    from ppfl.engine.synchronous import Scored
    from ppfl.progress import Progress

    BuildProblem = Callable[[ProblemSettings, Placement, int], Problem]

Result = TypeVar("Result")

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def build_problem(settings: ProblemSettings, placement: Placement, clients_per_chunk: int) -> Problem:
    """Build the part of the problem that this rank holds. Collective."""
    return settings.build(placement, clients_per_chunk)


def run(
    config: Config,
    out: Path,
    progress: Progress,
    communicator: Communicator | None = None,
    build_problem: BuildProblem = build_problem,
) -> str:
    """Run one experiment to the file `out`; return "complete", "diverged" or "already done". Collective.

    Default communicator: all ranks that the launcher started. `build_problem` may return a problem that it built
    earlier from the same arguments.

    Raises UserError for what the user can mend: an output that belongs to another run, more ranks than chunks of
    clients, a step size that must diverge, broken data, a full disk.
    """
    communicator = communicator or open_communicator()
    try:
        if on_first_rank(communicator, lambda: _make_room(config, out)) == "already done":
            return "already done"
        return _compute(config, out, progress, communicator, build_problem)
    finally:
        if communicator.rank == 0:
            release(out)


def _compute(
    config: Config, out: Path, progress: Progress, communicator: Communicator, build_problem: BuildProblem
) -> str:
    setup = build(config, communicator, build_problem)
    recorder = _open_recorder(config, out, setup) if communicator.rank == 0 else None
    engine = open_engine(setup)
    if recorder is not None and not isinstance(engine, Synchronous):
        recorder.follow_arrivals(engine.arrivals.arrays)
    progress.start(config.rounds)
    for scored in engine:
        _record(recorder, scored, setup.communicator)
        progress.update(scored.round, {k: v for k, v in scored.metrics.items() if isinstance(v, float)})
    _finish(config, out, setup, engine, recorder)
    progress.finish(engine.status, out)
    return engine.status


def _make_room(config: Config, out: Path) -> str:
    """Return what `prepare` found; what an unfinished run left beside its result goes."""
    found = prepare(out, config.digest)
    if found == "new":
        remove_parameters(out)
    elif config.save.local and not has_local(out):
        raise UserError(f"--out {out}: is complete, but without local parameters (save.local); choose another name")
    return found


def build(config: Config, communicator: Communicator, build_problem: BuildProblem = build_problem) -> Setup:
    """Build everything that a run consists of; each rank builds its own clients' part. Collective."""
    device = choose_device(config.engine.device, communicator)
    guarded = GuardedCommunicator(communicator)
    clients_per_chunk = config.engine.clients_per_chunk or 1
    data_seed = config.seed if config.problem.seed is None else config.problem.seed
    placement = Placement(guarded, data_seed, config.seed, _DTYPES[config.precision], device, config.byzantine)
    problem = build_problem(config.problem, placement, clients_per_chunk)
    _check_ranks(problem, communicator, clients_per_chunk)
    cohort = _sample(config, problem)
    _named("", lambda: check_cohort(problem, cohort, config.aggregator, config.byzantine))
    optimizer = config.server_optimizer
    participation = 1 / len(cohort.eligible) if config.asynchronous else cohort.participation
    algorithm = _named("algorithm.", lambda: config.algorithm.resolve(problem, participation, optimizer))
    if (times := config.compute_times) is not None:
        _named("compute_times.", lambda: times.check(cohort.eligible))
    tuner = config.evaluate.tuned.fine_tuner
    # where nothing is local, whole models are personalized, and only with what the configuration names for it
    whole_models = not problem.local_names
    tuned_problem = problem.all_local() if whole_models and tuner else problem
    resolved_tuner = _named("evaluate.tuned.", lambda: tuner.resolve(tuned_problem)) if tuner else None
    return Setup(
        problem=problem,
        algorithm=algorithm,
        server_optimizer=config.server_optimizer,
        aggregator=config.aggregator,
        cohort=cohort,
        communicator=guarded,
        client_weights=_client_weights(config, problem),
        num_rounds=config.rounds,
        evaluate_every=config.evaluate.every,
        tuned_epochs=config.evaluate.tuned.epochs,
        tuned_fine_tuner=resolved_tuner or (None if whole_models else algorithm.fine_tuner_of_clients),
        tuned_problem=tuned_problem,
        clients_per_chunk=clients_per_chunk,
        device=device,
        byzantine=config.byzantine,
        asynchronous=config.asynchronous,
        compute_times=config.compute_times,
        replay=_read_replay(config, communicator),
    )


def _sample(config: Config, problem: Problem) -> CohortSampler:
    """Return who takes part in a round, or who is in flight."""
    if config.asynchronous is None:
        return _named("cohort: ", lambda: CohortSampler(problem, config.cohort, config.seed))
    concurrency = config.asynchronous.concurrency
    return _named("asynchronous.concurrency: ", lambda: CohortSampler(problem, concurrency, config.seed))


def _read_replay(config: Config, communicator: Communicator) -> dict[str, np.ndarray] | None:
    """Return the arrival log that is to be repeated. Collective."""
    file = config.asynchronous.replay if config.asynchronous is not None else None
    if file is None:
        return None

    def read() -> dict[str, np.ndarray]:
        log = {str(name): values.to_numpy() for name, values in open_result(file.path).arrivals.data_vars.items()}
        recorded = len(log["client"]) if log else 0
        if recorded < config.rounds:
            raise UserError(
                f"asynchronous.replay: {file.path} has {recorded} arrivals, rounds: {config.rounds} asks for more"
            )
        return log

    return on_every_rank(communicator, read)


def _check_ranks(problem: Problem, communicator: Communicator, clients_per_chunk: int) -> None:
    num_chunks = -(-problem.num_clients // clients_per_chunk)
    if communicator.size > num_chunks:
        raise SharedUserError(
            f"{communicator.size} ranks for {problem.num_clients} clients in {num_chunks} chunk(s) of "
            f"{clients_per_chunk}: every rank needs a chunk; start at most {num_chunks} ranks"
        )


def _named(prefix: str, action: Callable[[], Result]) -> Result:
    """Turn a ValueError of a check that needs the built problem into an error that names the key."""
    try:
        return action()
    except ValueError as error:
        raise SharedUserError(f"{prefix}{error}") from error


def _client_weights(config: Config, problem: Problem) -> tuple[float, ...]:
    if config.weights == "uniform":
        return (1.0,) * problem.num_clients
    if not problem.has_samples and len(set(problem.num_train_samples)) > 1:
        raise SharedUserError(
            "weights: samples: what this problem knows of itself (θ*, ‖F‖, legal steps) is of the unweighted mean; "
            "use uniform"
        )
    return tuple(float(samples) for samples in problem.num_train_samples)


def _open_recorder(config: Config, out: Path, setup: Setup) -> Recorder:
    attributes = {
        "name": config.name,
        "digest": config.digest,
        "config": config.to_yaml(),
        "results_version": RESULTS_VERSION,
    }
    problem = setup.problem
    provenance = describe_process() | {
        "started": now(),
        "num_ranks": setup.communicator.size,
        "clients_per_chunk": setup.clients_per_chunk,
        "device": describe_device(setup.device),
    }
    recorder = Recorder(out, attributes, provenance)
    clients = {
        "client": np.array(problem.client_names, dtype=object),
        "num_train_samples": np.array(problem.num_train_samples),
        **problem.client_facts(),
    }
    facts = problem.facts()
    if config.byzantine is not None:
        clients["byzantine"] = np.isin(np.arange(problem.num_clients), list(problem.byzantine)).astype(np.int64)
        facts = {**facts, "num_byzantine": float(len(problem.byzantine) + config.byzantine.num_beside)}
    recorder.describe_problem(facts, clients)
    return recorder


def _record(recorder: Recorder | None, scored: Scored, communicator: Communicator) -> None:
    """Hand the scores to the recorder; a refusing disk ends all ranks. Collective."""

    def append() -> None:
        if recorder is not None:
            recorder.append(scored.round, {**scored.metrics, **scored.costs})

    on_every_rank(communicator, append)


def _finish(config: Config, out: Path, setup: Setup, engine: AnyEngine, recorder: Recorder | None) -> None:
    """Score the three stages, save the parameters and complete the result. Collective."""

    def write_rounds() -> None:
        if recorder is not None:
            recorder.write()

    on_every_rank(setup.communicator, write_rounds)  # the stages may take long
    stages = score_stages(setup, engine.group, engine.server)
    clients = {f"{stage}_{metric}": values for stage, scores in stages.items() for metric, values in scores.items()}
    metrics = next(iter(stages.values())).keys()
    summary = {
        metric: np.array([list(summarize(setup, metric, scores[metric]).values()) for scores in stages.values()])
        for metric in metrics
    }
    rank, size = setup.communicator.rank, setup.communicator.size

    def save() -> None:
        if config.save.local:
            group = engine.group
            save_local(out, ((c, group.state(c)["local"]) for c in group.clients), rank, size, config.digest)
        if recorder is not None:
            save_shared(out, engine.server["shared"], config.digest)
            recorder.finish(engine.status, clients, summary, list(stages), list(STATISTICS), {"ended": now()})

    on_every_rank(setup.communicator, save)
