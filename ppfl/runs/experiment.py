"""From a configuration to a result file: the one place where problem, method, engine, ranks and recorder meet."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from ppfl.config.run import RESULTS_VERSION
from ppfl.config.samples import samples_digest
from ppfl.config.scope import origins_in
from ppfl.core.agree import on_every_rank, on_first_rank
from ppfl.core.gpu_memory import gpu_memory_explained
from ppfl.core.provenance import describe_process, now
from ppfl.engine.choose import open_engine
from ppfl.engine.client_store import describe
from ppfl.engine.evaluate import STATISTICS
from ppfl.engine.final_stages import final_stages
from ppfl.engine.newcomers import with_newcomers
from ppfl.engine.synchronous import Synchronous
from ppfl.engine.virtual_clock import VirtualClock
from ppfl.interfaces.objective import frozen_of
from ppfl.interfaces.query_points import QueryPoints
from ppfl.jobs.attempt import NOBODY, Attempt
from ppfl.jobs.launcher import open_communicator
from ppfl.jobs.starts import refuse_missing_starts
from ppfl.results.checkpoints import Checkpoints
from ppfl.results.layout import PLUG_INS, SAMPLES, SECONDS_SHARED_BY, START
from ppfl.results.parameters import save_local, save_shared
from ppfl.results.recorder import Recorder
from ppfl.runs.assemble import Began, build, build_problem
from ppfl.runs.checkpointer import FileCheckpointer
from ppfl.runs.device import describe_device
from ppfl.runs.needs import Needs
from ppfl.runs.own_parameters import OwnParameters
from ppfl.runs.progress import Both, Lines, Silent, WarningsTo
from ppfl.runs.start import described

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from ppfl.config.run import Config
    from ppfl.core.communicator import Communicator
    from ppfl.engine.choose import AnyEngine
    from ppfl.engine.evaluate import Stages
    from ppfl.engine.ledger import Scored
    from ppfl.engine.run import Run
    from ppfl.engine.setup import Setup
    from ppfl.jobs.attempt import Caller
    from ppfl.runs.assemble import BuildProblem
    from ppfl.runs.progress import Progress


logger = logging.getLogger(__name__)

_TOGETHER = "runs_together"
"""What checkpoints note of a run that was computed with others: its seconds until then are shares."""


def run(
    config: Config,
    out: Path,
    progress: Progress,
    communicator: Communicator | None = None,
    build_problem: BuildProblem = build_problem,
    caller: Caller = NOBODY,
) -> str:
    """Run one experiment to the file `out`, from its checkpoint where there is one. Collective.

    Returns "complete", "diverged", "already done", "stopped" when the caller or a request with `requeue` wanted it, or
    "stopped on request", not to go on by itself (`ppfl.jobs.stop_requests`): everything is saved then.
    Default communicator: all ranks that the launcher started. `build_problem` may return a problem that it built
    earlier from the same arguments.

    Raises UserError for what the user can mend: an output that belongs to another run or that another job works on,
    more ranks than chunks of clients, a step size that must diverge, broken data, a full disk. Whatever ends a run that
    was this job's own is noted beside the result (`ppfl.jobs.failures`).
    """
    communicator = communicator or open_communicator()
    if config.start is not None:
        # before anything is claimed or noted: nothing of this run has failed
        on_every_rank(communicator, lambda: _refuse_missing_start(config, out, communicator.rank))
    attempt = Attempt(config, out, communicator.size, caller)
    try:
        found = on_first_rank(communicator, attempt.enter if communicator.rank == 0 else lambda: "")
        if found in ("already done", "stopped"):
            return found
        # rank 0 has looked at the disk for all: on a shared file system others could see something else
        attempt.follow(on_first_rank(communicator, lambda: "apart" if attempt.here != out else "beside"))
        attempt.told(0)
        # of many runs nobody reads what each of them needs
        tells_needs = not isinstance(progress, Silent)
        with ExitStack() as stack:
            if communicator.rank == 0:
                log = attempt.open_log()
                stack.enter_context(WarningsTo(log))
                progress = Both(progress, Lines(log))
            stack.enter_context(gpu_memory_explained())
            status = _compute(attempt, progress, communicator, build_problem, tells_needs=tells_needs)
        return on_first_rank(communicator, lambda: attempt.stopped_as) if status == "stopped" else status
    except BaseException as error:
        attempt.note(error, communicator.rank)
        raise
    finally:
        attempt.leave()


def _refuse_missing_start(config: Config, out: Path, rank: int) -> None:
    if rank == 0:
        refuse_missing_starts([(config, out)])


def _compute(
    attempt: Attempt, progress: Progress, communicator: Communicator, build_problem: BuildProblem, *, tells_needs: bool
) -> str:
    began, config = time.perf_counter(), attempt.config
    checkpoints = open_checkpoints(attempt, communicator)
    kernels, chunk, num_together = (checkpoints.noted(key) for key in ("kernels", "clients_per_chunk", _TOGETHER))
    start = checkpoints.kept(config.start.run.result.name) if config.start and config.start.run else None
    setup = build(config, communicator, build_problem, Began(kernels, int(chunk) if chunk else None, start))
    rounds = rounds_of(attempt, progress, setup, checkpoints, began, int(num_together or 1), tells_needs=tells_needs)
    while True:
        try:
            next(rounds)
        except StopIteration as ended:
            return str(ended.value)


def open_checkpoints(attempt: Attempt, communicator: Communicator) -> Checkpoints:
    """Return the checkpoints of a run, those of before among them."""
    identity: dict[str, Any] = {
        "digest": attempt.config.digest,
        "results_version": RESULTS_VERSION,
        # null chooses one, which the notes keep
        "clients_per_chunk": attempt.config.engine.clients_per_chunk or 1,
    }
    if identity["clients_per_chunk"] > 1:
        # chunks have had other last bits in this version: half a run of those is not gone on with
        identity["mapping"] = "batched"
    return Checkpoints(attempt.here, identity, communicator)


def rounds_of(
    attempt: Attempt, progress: Progress, setup: Setup, checkpoints: Checkpoints, began: float, num_together: int = 1,
    *, tells_needs: bool = False,
) -> Generator[Synchronous, None, str]:  # fmt: skip
    """Run one experiment that was entered and built; yield its engine before every round of an engine in rounds.

    Whoever goes on may have done something for the round before. Returns what `run` does, "stopped" for all that were.
    Collective.

    began: when that was, by `time.perf_counter`; num_together: runs that are, or were, computed together; tells_needs:
    say what the run needs, where that is much.
    """
    config, out, communicator = attempt.config, attempt.here, setup.communicator
    _have_kept(checkpoints, setup, num_together)
    recorder = open_recorder(attempt, setup, num_together) if communicator.rank == 0 else None
    checkpointer = FileCheckpointer(
        config.checkpoint, checkpoints, recorder, attempt.wants_stop, attempt.told, attempt.check
    )
    # a function, since a checkpoint that turns out to be damaged has left half of a state in the engine that tried it
    engine, first = checkpointer.resume(lambda: open_engine(setup, checkpointer))
    if attempt.is_unfinished and not first:
        logger.warning("%s: is unfinished and has no checkpoint to go on from; it is computed anew", out)
    _follow(recorder, engine)
    attempt.begin(first)
    needs = Needs(setup, engine, first, progress if tells_needs else None)
    progress.start(config.rounds, first)
    spent = engine.ledger.spent
    spent.tell, spent.began = progress.doing, began
    spent.seconds["start"] += time.perf_counter() - began
    for scored in engine.turns() if isinstance(engine, Synchronous) else engine:
        if scored is None:
            assert isinstance(engine, Synchronous)
            yield engine
            continue
        with spent.on("writing"):
            _record(recorder, scored, setup.communicator)
        progress.update(scored.round, {k: v for k, v in scored.metrics.items() if isinstance(v, float)})
        needs.after(scored.round)
    # so that a kill during them costs no rounds
    with spent.on("writing"):
        _record(recorder, None, setup.communicator)  # the stages may take long
    if engine.status != "stopped":
        _finish(attempt, setup, engine, recorder, progress)
    progress.finish(engine.status, attempt.out)
    return engine.status


def _finish(attempt: Attempt, setup: Setup, engine: Run, recorder: Recorder | None, progress: Progress) -> None:
    """Score what a run that has ended has come to, save and deliver it. Collective."""
    if engine.best is not None:
        progress.tell(str(engine.best))
    stages = with_newcomers(engine, final_stages(engine))
    save_parameters(attempt.config, attempt.here, setup, engine)
    complete(setup, engine, stages, recorder)
    on_first_rank(setup.communicator, attempt.deliver)


def _have_kept(checkpoints: Checkpoints, setup: Setup, num_together: int) -> None:
    """Have checkpoints keep what a run that goes on from them is to have again."""
    checkpoints.note("kernels", setup.kernels)
    checkpoints.note("clients_per_chunk", str(setup.clients_per_chunk))
    if num_together > 1:
        checkpoints.note(_TOGETHER, str(num_together))
    checkpoints.keep(setup.start_files)


def _follow(recorder: Recorder | None, engine: AnyEngine) -> None:
    if recorder is None:
        return
    if not isinstance(engine, Synchronous):
        recorder.follow_arrivals(engine.arrivals.arrays)
        if isinstance(engine, VirtualClock) and engine.has_losses:
            recorder.follow_losses(engine.losses.arrays)
    recorder.follow_seconds(engine.ledger.seconds)


def describe_states(setup: Setup) -> str:
    """Say in words where the states of all clients are."""
    return describe(setup.client_state, setup.problem.client_data.num_clients, setup.bytes_a_client)


def open_recorder(attempt: Attempt, setup: Setup, num_together: int = 1) -> Recorder:
    """Return the recorder of a result, with what is known before the first round. Called on rank 0.

    Of runs that are computed together, `num_together`, each is told its share of their seconds, and its file says so.
    """
    config = attempt.config
    attributes = {
        "name": config.name,
        "digest": config.digest,
        "config": config.to_yaml(),
        "results_version": RESULTS_VERSION,
    }
    data = setup.problem.client_data
    provenance = describe_process() | {
        "started": now(),
        "num_ranks": setup.communicator.size,
        "clients_per_chunk": setup.clients_per_chunk,
        "device": describe_device(setup.device),
        "kernels": setup.kernels,
        "client_state": describe_states(setup),
        SAMPLES: samples_digest(config),
    }
    if origins := origins_in(config):
        told = (f"{key} ({' '.join(origin.identity.values())})" for key, origin in sorted(origins.items()))
        provenance[PLUG_INS] = ", ".join(told)
    if config.start is not None:
        provenance[START] = described(config)
    if num_together > 1:
        provenance[SECONDS_SHARED_BY] = num_together
    recorder = Recorder(attempt.here, attributes, provenance, attempt.check)
    clients = {
        "client": np.array(data.client_names, dtype=object),
        "num_train_samples": np.array(data.num_train_samples),
        **data.client_facts(),
        **_marks(setup),
    }
    facts = _facts(setup)
    if setup.newcomers is not None:
        theirs = setup.newcomers.problem.client_data
        # without what there is a number of for each label: their second dimension is that of steps
        of_newcomers = {name: values for name, values in theirs.client_facts().items() if values.ndim == 1}
        recorder.describe_newcomers(theirs.client_names, setup.newcomers.steps, of_newcomers)
        facts = {**facts, "num_newcomers": float(theirs.num_clients)}
    recorder.describe_problem(facts, clients)
    return recorder


def _facts(setup: Setup) -> dict[str, float]:
    """Return what is known of the problem, its attackers and its graph before the first round."""
    facts, byzantine = setup.problem.theory.facts(), setup.byzantine
    if byzantine is not None:
        facts = {**facts, "num_byzantine": float(len(setup.roles.byzantine) + byzantine.num_beside)}
    return facts if setup.weights_of_graph is None else {**facts, **setup.weights_of_graph.facts()}


def _marks(setup: Setup) -> dict[str, np.ndarray]:
    """Return which clients have each of the roles that the configuration gives to some, 0 or 1, (M,)."""
    roles: dict[str, frozenset[int]] = {}
    if setup.byzantine is not None:
        roles["byzantine"] = setup.roles.byzantine
    if setup.strategic is not None:
        roles["strategic"] = setup.roles.strategic
    if isinstance(setup.algorithm, QueryPoints):
        roles["main"] = frozenset(setup.algorithm.mains)
    everyone = np.arange(setup.problem.client_data.num_clients)
    return {name: np.isin(everyone, list(members)).astype(np.int64) for name, members in roles.items()}


def _record(recorder: Recorder | None, scored: Scored | None, communicator: Communicator) -> None:
    """Hand scores to the recorder, or have it write what it has; a refusing disk ends all ranks. Collective."""

    def append() -> None:
        if recorder is not None and scored is not None:
            recorder.append(scored.round, {**scored.metrics, **scored.costs})
        elif recorder is not None:
            recorder.write()

    on_every_rank(communicator, append)


def save_parameters(config: Config, out: Path, setup: Setup, engine: Run) -> None:
    """Save θ and, where it is wanted, w; before `complete`: whoever sees a complete result finds θ beside it.

    Collective.
    """
    rank, size = setup.communicator.rank, setup.communicator.size

    def save() -> None:
        with engine.ledger.spent.on("writing"):
            if config.save.local:
                save_local(out, OwnParameters(engine), rank, size, config.digest)
            if rank == 0:
                save_shared(out, {**engine.server["shared"], **frozen_of(setup.problem.objective)}, config.digest)

    on_every_rank(setup.communicator, save)


def complete(setup: Setup, engine: Run, stages: Stages, recorder: Recorder | None) -> None:
    """Complete the result with the scores and costs of its stages. Collective."""
    of_stages = stages.scores
    clients = {f"{stage}_{metric}": values for stage, scores in of_stages.items() for metric, values in scores.items()}
    stage_names, statistics, ended = list(stages.costs), list(STATISTICS), {"ended": now()}

    def finish() -> None:
        if recorder is not None:
            if engine.best is not None:
                recorder.describe_best_round(engine.best.facts)
            recorder.add_of_newcomers(stages.newcomers)
            recorder.finish(engine.status, clients, stages.summary, stage_names, statistics, ended, stages.cost_arrays)

    on_every_rank(setup.communicator, finish)
