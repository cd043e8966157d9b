"""Where a run has its result, and who asked for it: the claim, the two places, and the note of a failure."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppfl.core.agree import SharedUserError
from ppfl.core.errors import UserError
from ppfl.core.provenance import describe_process, now
from ppfl.jobs.claim import Claim, ClaimedError
from ppfl.jobs.delivery import deliver, place_of_work, remove_unfinished
from ppfl.jobs.failures import Failure, remove_failure, wait_for_the_cause, write_failure, write_rank_log
from ppfl.jobs.gpus_in_vain import in_vain
from ppfl.jobs.leftovers import clear_folder_once, clear_result
from ppfl.jobs.run_log import RunLog
from ppfl.jobs.stop_requests import RunRequests, forget_run
from ppfl.jobs.stopping import ON_REQUEST
from ppfl.results.layout import apart_path
from ppfl.results.parameters import has_local, remove_parameters
from ppfl.results.recorder import look, prepare, set_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from ppfl.config.run import Config

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 2.0


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


NOBODY = Caller()
"""Wishes nothing and is told nothing."""


class Attempt:
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

    def enter(self, ready: Collection[Path] = ()) -> str:
        """Claim the result unless it is finished; "stopped" when that was wanted before. Called on rank 0.

        ready: folders that were found a moment ago to be there and to take files.
        """
        config, out = self.config, self.out
        found: str = (look if out.parent in ready else prepare)(out, config.digest)
        clear_folder_once(out.parent)
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
            # the note of the attempt before; what is left from here on is about this one
            remove_failure(out)
            # a request for this very attempt may have come between the claim and this line
            forget_run(out, but_for=self.claim.token if self.claim is not None else "")
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
            # both are right results of one configuration; the first stays, as others may have read it
            if not deliver(self.here, self.out, self.config.digest) and self.claim is not None:
                self.claim.lose("another job has finished it, and that stays")
        remove_failure(self.out)
        forget_run(self.out)
        remove_unfinished(self.out)
        if self._caller.cleans:
            clear_result(self.out)
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
            clear_result(self.out)
        return look(self.out, self.config.digest)  # whoever had it may have finished it meanwhile

    def open_log(self) -> RunLog:
        """Begin the log of this attempt with what it is. Called on rank 0 when the result is this job's own."""
        facts, cell = describe_process(), f" ({self._caller.cell})" if self._caller.cell else ""
        job = f", job {facts['slurm_job_id']}" if facts.get("slurm_job_id") else ""
        self.log = RunLog(self.out)
        lines = [
            *([f"warning: {vain}"] if (vain := in_vain(self.config.device)) else []),
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
        # an error that all ranks raise is told once, by the first
        if is_ours and (rank == 0 or not isinstance(error, SharedUserError)):
            failure = Failure.of(error, self.config.digest, cell=self._caller.cell, rank=rank, round=self.round)
            write_rank_log(self.out, failure)
            wait_for_the_cause(self.out, error)
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
