"""Runs of networks on a device that go through their rounds side by side, their clients computed in one call.

Each of them is what it is alone, `ppfl.runs.experiment.rounds_of`, with results, checkpoints, requests to stop and
failures of its own; what it finds when a round begins is that its clients are computed. So it can be stopped or killed
at any time, and goes on from its checkpoint alone.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.content import content
from ppfl.core.gpu_memory import gpu_memory_explained
from ppfl.engine.mapping.batched_runs import BatchedRuns, fits, kind_of, most_runs
from ppfl.engine.mapping.first_round import why_apart
from ppfl.engine.run import Run
from ppfl.runs.experiment import open_checkpoints, rounds_of
from ppfl.runs.progress import Lines, WarningsTo

if TYPE_CHECKING:
    from collections.abc import Generator, Hashable, Iterator, Sequence

    from ppfl.engine.setup import Setup
    from ppfl.engine.synchronous import Synchronous
    from ppfl.pack.guest import Guest

logger = logging.getLogger(__name__)


def groups_of(guests: Sequence[Guest]) -> Iterator[list[Guest]]:
    """Yield runs that can go side by side, as many as memory holds; those that are left go alone."""
    kinds: dict[Hashable, list[Guest]] = defaultdict(list)
    for guest in guests:
        if guest.setup is not None and fits(guest.setup):
            config = guest.run.config
            problem = content(config.problem, leave_out={"seed"})
            kinds[problem, config.precision, content(config.engine), kind_of(guest.setup)].append(guest)
    for alike in kinds.values():
        most = min(most_runs(_setup(guest)) for guest in alike)
        number = -(-len(alike) // most)
        for first in range(number):
            group = alike[first::number]
            why = "" if len(group) == 1 else why_apart([Run(_setup(guest)) for guest in group])
            if why:
                logger.warning("%d runs are computed one after another: %s", len(group), why)
            elif len(group) > 1:
                yield group


def run_side_by_side(guests: Sequence[Guest]) -> None:
    """Run them to their ends; each has its answer then."""
    members = [_Member(guest, len(guests)) for guest in guests]
    for member in members:
        member.go_on()
    batched: BatchedRuns | None = BatchedRuns([member.engine for member in members if member.is_going])
    for round in range(_setup(guests[0]).num_rounds):
        going = [member for member in members if member.is_going]
        # the last one is faster by itself
        if batched is not None and len(going) > 1 and not _computed(batched, round, going):
            batched = None
        for member in going:
            member.go_on()


def _computed(batched: BatchedRuns, round: int, members: Sequence[_Member]) -> bool:
    """Compute the clients of a round; False when they are to be computed run by run from now on."""
    try:
        batched.compute(round, [member.engine for member in members])
    except Exception as error:  # noqa: BLE001, what is a mistake each run raises by itself
        batched.forget()
        why = str(error).partition("\n")[0]
        logger.warning("clients of %d runs are computed run by run: %s", len(members), why)
        return False
    return True


class _Member:
    """One of them."""

    def __init__(self, guest: Guest, num_together: int) -> None:
        self._guest = guest
        self._log = guest.attempt.open_log()
        self._log.write(f"ppfl: computed together with {num_together - 1} other runs\n")
        self._num_together = num_together
        self._rounds: Generator[Synchronous, None, str] | None = None
        self._engine: Synchronous | None = None

    @property
    def is_going(self) -> bool:
        """Whether a round is to be played."""
        return self._guest.answer is None

    @property
    def engine(self) -> Synchronous:
        """Before a round."""
        assert self._engine is not None
        return self._engine

    def go_on(self) -> None:
        """Go on to the next round, or to the end; on the clock of this run alone."""
        self._guest.safely(self._go_on)

    def _go_on(self) -> None:
        if self._rounds is None:
            self._rounds = self._begun()
        if self._engine is not None:
            self._engine.ledger.spent.go_on()
        with WarningsTo(self._log), gpu_memory_explained():
            try:
                self._engine = next(self._rounds)
            except StopIteration as ended:
                self._guest.answer = self._guest.attempt.stopped_as if ended.value == "stopped" else ended.value
                return
        self.engine.ledger.spent.pause()

    def _begun(self) -> Generator[Synchronous, None, str]:
        guest = self._guest
        checkpoints = open_checkpoints(guest.attempt, SoloCommunicator())
        # its own time until now: others were entered and built meanwhile
        began = time.perf_counter() - guest.start_seconds
        return rounds_of(guest.attempt, Lines(self._log), _setup(guest), checkpoints, began, self._num_together)


def _setup(guest: Guest) -> Setup:
    assert guest.setup is not None
    return guest.setup
