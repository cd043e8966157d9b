"""From a configuration to a result file: the one place where problem, method, engine, ranks and recorder meet."""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppfl.assemble import build, build_problem
from ppfl.config import RESULTS_VERSION
from ppfl.core.agree import SharedUserError, on_every_rank, on_first_rank
from ppfl.core.errors import UserError
from ppfl.device import describe_device
from ppfl.engine.choose import open_engine
from ppfl.engine.client_store import describe
from ppfl.engine.evaluate import STATISTICS, score_stages, summarize
from ppfl.engine.synchronous import Synchronous
from ppfl.gpus_in_vain import in_vain
from ppfl.keeper import CheckpointKeeper
from ppfl.launcher import open_communicator
from ppfl.progress import Both, Lines, WarningsTo
from ppfl.provenance import describe_process, now
from ppfl.results.checkpoints import Checkpoints
from ppfl.results.claim import Claim, ClaimedError
from ppfl.results.delivery import deliver, place_of_work, remove_unfinished
from ppfl.results.failures import Failure, remove_failure, write_failure, write_rank_log
from ppfl.results.layout import SECONDS_SHARED_BY, apart_path
from ppfl.results.leftovers import remove_leftovers
from ppfl.results.parameters import has_local, remove_parameters, save_local, save_shared
from ppfl.results.partials import remove_partials_once
from ppfl.results.recorder import Recorder, look, prepare, set_aside
from ppfl.results.run_log import RunLog
from ppfl.results.stop_requests import RunRequests, forget_run
from ppfl.stopping import ON_REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ppfl.assemble import BuildProblem
    from ppfl.config import Config
    from ppfl.core.communicator import Communicator
    from ppfl.engine.choose import AnyEngine
    from ppfl.engine.evaluate import Stages
    from ppfl.engine.lockstep import Member
    from ppfl.engine.setup import Setup
    from ppfl.engine.synchronous import Scored
    from ppfl.progress import Progress


logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 2.0
_LARGE_BYTES = 1_000_000_000
"""States of clients beyond this are told before a run."""


@dataclass(frozen=True)
class Caller:
    """Who runs an experiment: what it wishes and what it is told, beside the progress that rank 0 shows."""

    cell: str = ""
    """What varies in a grid, in words, for the note of a failure."""
    wants_stop: Callable[[], bool] = lambda: False
    """Asked on every rank after every round; when any rank says yes, all save the state and stop. So they do when the
    run is asked to by a file beside its result."""
    told: Callable[[int], None] = lambda done: None
    """Called on every rank with the number of rounds done: 0 when the run is this job's own, then after every round."""
    delivers: bool = False
    """Compute in the folder `running` beside the result, put only what is finished to its place, and wait while another
    job is at work on it."""
    cleans: bool = False
    """Look for what killed jobs have left half written, which reads the folder; else only after a dead claim."""


def run(
    config: Config,
    out: Path,
    progress: Progress,
    communicator: Communicator | None = None,
    build_problem: BuildProblem = build_problem,
    caller: Caller = Caller(),
) -> str:
    """Run one experiment to the file `out`, from its checkpoint where there is one. Collective.

    Returns "complete", "diverged", "already done", "stopped" when the caller or a request with `requeue` wanted it, or
    "stopped on request", not to go on by itself (`ppfl.results.stop_requests`): everything is saved then.
    Default communicator: all ranks that the launcher started. `build_problem` may return a problem that it built
    earlier from the same arguments.

    Raises UserError for what the user can mend: an output that belongs to another run or that another job works on,
    more ranks than chunks of clients, a step size that must diverge, broken data, a full disk. Whatever ends a run that
    was this job's own is noted beside the result (`ppfl.results.failures`).
    """
    communicator = communicator or open_communicator()
    place = Place(config, out, communicator.size, caller)
    try:
        found = on_first_rank(communicator, place.enter if communicator.rank == 0 else lambda: "")
        if found in ("already done", "stopped"):
            return found
        place.follow(on_first_rank(communicator, lambda: "apart" if place.here != out else "beside"))
        place.told(0)
        with ExitStack() as stack:
            if communicator.rank == 0:
                log = place.open_log()
                stack.enter_context(WarningsTo(log))
                progress = Both(progress, Lines(log))
            status = _compute(place, progress, communicator, build_problem)
        return on_first_rank(communicator, lambda: place.stopped_as) if status == "stopped" else status
    except BaseException as error:
        place.note(error, communicator.rank)
        raise
    finally:
        place.leave()


class Place:
    """The result file and what lies beside it; on rank 0 with a claim."""

    def __init__(self, config: Config, out: Path, num_ranks: int, caller: Caller) -> None:
        self.config = config
        self.out = out
        self.here = out
        """Where it is computed; on other ranks than 0 after `follow`."""
        self.claim: Claim | None = None
        self.round: int | None = None
        """Rounds done; None before the result is this job's own."""
        self.is_unfinished = False
        self._num_ranks = num_ranks
        self._caller = caller
        self._requests: RunRequests | None = None
        self.log: RunLog | None = None

    def enter(self) -> str:
        """Claim the result unless it is finished; "stopped" when that was wanted before. Called on rank 0."""
        config, out = self.config, self.out
        found: str = prepare(out, config.digest)
        remove_partials_once(out.parent)
        if found != "already done":
            found = self._claim()
        if found == "stopped":
            return found
        found = _without_damage(out, found)
        if found != "already done":
            self.here = place_of_work(out, config.digest, apart=self._caller.delivers)
            if self.here != out:
                found = _without_damage(self.here, prepare(self.here, config.digest))
            if found == "already done":  # whoever completed it was killed before it was delivered
                self.deliver()
        self.is_unfinished = found == "unfinished"
        if found != "already done":
            remove_failure(out)
            forget_run(out)
            remove_parameters(self.here, also_local=config.save.local)
        elif config.save.local and not has_local(out):
            raise UserError(f"--out {out}: is complete, but without local parameters (save.local); choose another name")
        else:  # whoever completed it may have been killed right after
            remove_unfinished(out)
        return found

    def follow(self, where: str) -> None:
        """Learn from rank 0 where the result is computed: "beside" its file or "apart"."""
        self.here = self.out if where == "beside" else apart_path(self.out)

    def deliver(self) -> str:
        """Put a result that is finished to its place, and remove what is left of its way there. Called on rank 0."""
        if self.here != self.out:
            self.check()
            if not deliver(self.here, self.out, self.config.digest) and self.claim is not None:
                self.claim.lose("another job has finished it, and that stays")
        remove_failure(self.out)
        forget_run(self.out)
        remove_unfinished(self.out)
        if self._caller.cleans:
            remove_leftovers(self.out)
        return ""

    def _claim(self) -> str:
        """Claim the result, or wait for that; return what is there then."""
        waits = False
        while True:
            try:
                self.claim = Claim(self.out, self._num_ranks, self.config.rounds)
                break
            except ClaimedError as error:
                if not self._caller.delivers:
                    raise
                if not waits:
                    logger.warning("%s; it is waited for", error)
                waits = True
            if not self._caller.wants_stop():
                time.sleep(_LOOK_AGAIN_SECONDS)
            if look(self.out, self.config.digest) == "already done":
                return "already done"
            if self._caller.wants_stop():
                return "stopped"
        self._requests = RunRequests(self.out, self.claim.token)
        if self.claim.has_taken_over or self._caller.cleans:
            remove_leftovers(self.out)
        return look(self.out, self.config.digest)  # whoever had it may have finished it meanwhile

    def open_log(self) -> RunLog:
        """Begin the log of this attempt with what it is. Called on rank 0 when the result is this job's own."""
        facts, cell = describe_process(), f" ({self._caller.cell})" if self._caller.cell else ""
        job = f", job {facts['slurm_job_id']}" if facts.get("slurm_job_id") else ""
        self.log = RunLog(self.out)
        lines = [
            *([f"warning: {vain}"] if (vain := in_vain(self.config.engine.device)) else []),
            f"try {self.log.number} at {self.config.digest}{cell}, {now()}",
            f"{self._num_ranks} rank(s), process {os.getpid()} on {facts['host']}{job}, ppfl {facts['version_ppfl']}",
        ]
        self.log.write("".join(f"ppfl: {line}\n" for line in lines))
        return self.log

    def wants_stop(self) -> bool:
        """Say whether the caller, or somebody by a file beside the result, wants the run to stop."""
        return self._caller.wants_stop() or (self._requests is not None and self._requests())

    @property
    def stopped_as(self) -> str:
        """Say in which way the run was stopped. Asked on rank 0."""
        request = self._requests.found if self._requests is not None else None
        return ON_REQUEST if request is not None and not request.requeue else "stopped"

    def told(self, round: int) -> None:
        """Note how far the run is, for whoever asks."""
        self.round = round
        if self.claim is not None:
            self.claim.tell(round)
        self._caller.told(round)

    def begin(self, round: int) -> None:
        """Note where the rounds begin."""
        self.round = round
        if self.claim is not None:
            self.claim.begin(round)

    def check(self) -> None:
        """Raise UserError when another job has taken the result over."""
        if self.claim is not None:
            self.claim.check()
            if look(self.out, self.config.digest) == "already done":
                self.claim.lose("another job has finished it, and that stays")

    def note(self, error: BaseException, rank: int) -> None:
        """Leave the reason of a failure beside the result, unless the result is another job's."""
        is_ours = self.round is not None and (self.claim is None or not self.claim.is_lost)
        if is_ours and (rank == 0 or not isinstance(error, SharedUserError)):
            failure = Failure.of(error, self.config.digest, cell=self._caller.cell, rank=rank, round=self.round)
            write_rank_log(self.out, failure)
            write_failure(self.out, failure)
            if self.log is not None:
                self.log.write("\n".join([f"ppfl: failed: {failure.reason}", *failure.log_tail, ""]))

    def leave(self) -> None:
        """Let other jobs have the result."""
        if self.log is not None:
            self.log.close()
        if self.claim is not None:
            self.claim.release()


def _without_damage(result: Path, found: str) -> str:
    """Set aside what is not as it was written, so that it is computed anew; return what is there then."""
    if found != "damaged":
        return found
    aside = set_aside(result).name
    logger.warning(
        "%s: is damaged, or was changed after it was written; it is now %s, and computed anew", result, aside
    )
    return "new"


def _compute(place: Place, progress: Progress, communicator: Communicator, build_problem: BuildProblem) -> str:
    config, out = place.config, place.here
    setup = build(config, communicator, build_problem)
    recorder = open_recorder(place, setup) if communicator.rank == 0 else None
    identity = {
        "digest": config.digest,
        "results_version": RESULTS_VERSION,
        "clients_per_chunk": setup.clients_per_chunk,
    }
    checkpoints = Checkpoints(out, identity, communicator)
    keeper = CheckpointKeeper(config.checkpoint, checkpoints, recorder, place.wants_stop, place.told, place.check)
    engine, first = keeper.resume(lambda: open_engine(setup, keeper))
    if place.is_unfinished and not first:
        logger.warning("%s: is unfinished and has no checkpoint to go on from; it is computed anew", out)
    if recorder is not None and not isinstance(engine, Synchronous):
        recorder.follow_arrivals(engine.arrivals.arrays)
    place.begin(first)
    progress.start(config.rounds, first, f"states of {describe_states(setup)}" if _is_large(setup) else "")
    for scored in engine:
        _record(recorder, scored, setup.communicator)
        progress.update(scored.round, {k: v for k, v in scored.metrics.items() if isinstance(v, float)})
    if engine.status == "stopped":
        _record(recorder, None, setup.communicator)
    else:
        _record(recorder, None, setup.communicator)  # the stages may take long
        complete(config, out, setup, engine, score_stages(setup, engine.group, engine.server), recorder)
        on_first_rank(communicator, place.deliver)
    progress.finish(engine.status, place.out)
    return engine.status


def describe_states(setup: Setup) -> str:
    """Say in words where the states of all clients are."""
    return describe(setup.client_state, setup.problem.num_clients, setup.bytes_a_client)


def _is_large(setup: Setup) -> bool:
    return setup.client_state != "device" or setup.problem.num_clients * setup.bytes_a_client >= _LARGE_BYTES


def open_recorder(place: Place, setup: Setup, num_together: int = 1) -> Recorder:
    """Return the recorder of a result, with what is known before the first round. Called on rank 0.

    Of runs that are computed together, `num_together`, each is told its share of their seconds, and its file says so.
    """
    config = place.config
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
        "client_state": describe_states(setup),
    }
    if num_together > 1:
        provenance[SECONDS_SHARED_BY] = num_together
    recorder = Recorder(place.here, attributes, provenance, place.check)
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


def _record(recorder: Recorder | None, scored: Scored | None, communicator: Communicator) -> None:
    """Hand scores to the recorder, or have it write what it has; a refusing disk ends all ranks. Collective."""

    def append() -> None:
        if recorder is not None and scored is not None:
            recorder.append(scored.round, {**scored.metrics, **scored.costs})
        elif recorder is not None:
            recorder.write()

    on_every_rank(communicator, append)


def complete(
    config: Config,
    out: Path,
    setup: Setup,
    engine: AnyEngine | Member,
    stages: Stages,
    recorder: Recorder | None,
) -> None:
    """Save the parameters and complete the result with the scores and costs of its stages. Collective."""
    of_stages = stages.scores
    clients = {f"{stage}_{metric}": values for stage, scores in of_stages.items() for metric, values in scores.items()}
    metrics = next(iter(of_stages.values())).keys()
    summary = {
        metric: np.array([list(summarize(setup, metric, scores[metric]).values()) for scores in of_stages.values()])
        for metric in metrics
    }
    costs = stages.cost_arrays
    rank, size = setup.communicator.rank, setup.communicator.size

    def save() -> None:
        if config.save.local:
            group = engine.group
            save_local(out, group.clients, group, rank, size, config.digest)
        if recorder is not None:
            save_shared(out, engine.server["shared"], config.digest)
            recorder.finish(engine.status, clients, summary, list(of_stages), list(STATISTICS), {"ended": now()}, costs)

    on_every_rank(setup.communicator, save)
