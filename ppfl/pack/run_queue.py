"""Which runs of a grid are left for this pack, while others may work in the same folder.

Nothing is agreed on between packs but through files: whoever works on a run claims it (`.running.json`), and what ended
lies there. A pack leaves claimed runs alone, looks at them again, and takes those whose owner died or let go.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppfl.config.grid import show_varying
from ppfl.core.errors import UserError
from ppfl.core.files import time_in
from ppfl.interfaces.aggregator import is_sum
from ppfl.interfaces.personal_aggregates import goes_with_others
from ppfl.jobs.owner import Watch
from ppfl.jobs.states import state_of, states_of
from ppfl.jobs.stop_requests import request_for
from ppfl.jobs.stopping import ON_REQUEST
from ppfl.pack.early import WORK_OF_CELLS
from ppfl.pack.scheduler import Task
from ppfl.results.layout import STALE_SECONDS, failed_path, stop_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ppfl.config.grid import Cell
    from ppfl.config.run import Config
    from ppfl.jobs.states import RunState

MAX_BATCH = 64
MAX_CLIENT_ROUNDS = 1 << 17
"""Of all runs of a batch together: seconds of work, for what a batch was at is lost when it is killed."""
_FEW_CLIENT_ROUNDS = 1 << 14
"""Of all runs of a batch together: fewer take hardly less time, since it goes to calls."""
_SMALL_CLIENT_ROUNDS = 1 << 15
"""Of a run that is computed with others: a larger one has enough to do for each call by itself."""
MAX_PROBLEM_BYTES = 1 << 29
"""Of the problems of a batch, which a child holds all at once; at least one is taken, whatever its size."""
_PROBLEMS_OF_NETWORKS = 8
"""Of a batch, each with its samples: how many these are is not known before they are read."""
_COPIES = 4
"""Of the matrices of a quadratic problem: as they are, for rounds, for scores, and while they are built."""
CLAIMED = "claimed"
"""What a child answers for a run that turned out to be somebody else's."""
_LOOK_AGAIN_SECONDS = 2.0
_LISTED_WHILE_ONE_IS_ASKED = 50
"""Runs of a folder that are listed in the time that it takes to ask for the files of one."""
ELSEWHERE = "at work elsewhere"
"""What is said of runs whose end was not waited for."""


@dataclass(frozen=True)
class RunOfCell:
    """What a child is told: which configuration, and where the result goes."""

    config: Config
    out: Path
    cell: str
    """What varies, in words."""


@dataclass(frozen=True)
class Executor:
    """How runs are done: by which work function, and what it is given for a cell and the file of its result."""

    make_work: str
    payload: Callable[[Cell, Path], Any]
    has_batches: bool
    """True when the work function can do several runs together."""
    has_cards: bool = False
    """True when children find GPUs, on which networks go together, too."""


ONE_RANK = Executor(WORK_OF_CELLS, lambda cell, out: RunOfCell(cell.config, out, show_varying(cell.varying)), True)


@dataclass(frozen=True, eq=False)
class _Entry:
    cell: Cell
    out: Path
    executor: Executor

    @property
    def payload(self) -> Any:
        return self.executor.payload(self.cell, self.out)

    @property
    def needs_local(self) -> bool:
        """True when the files' names do not tell whether the result is complete."""
        return self.cell.config.save.local

    @property
    def client_rounds(self) -> int:
        return (getattr(self.cell.config.problem, "clients", None) or 0) * self.cell.config.rounds

    @property
    def problem_bytes(self) -> int:
        """Of a quadratic problem by a generator, about; of networks a share, and 0 for all others, which go alone."""
        problem = self.cell.config.problem
        if not problem.has_statistics:
            return MAX_PROBLEM_BYTES // _PROBLEMS_OF_NETWORKS
        lengths = [getattr(problem, name, None) or 0 for name in ("shared_dimension", "local_dimension")]
        return (getattr(problem, "clients", None) or 0) * sum(lengths) ** 2 * 8 * _COPIES

    # the rest is asked for again and again of runs that wait, and of no others: a grid may have a hundred thousand
    # runs, most of them done, hence also one text for all that have the same

    @cached_property
    def affinity(self) -> str:
        """All that a problem is built from: of two runs with the same, the second finds it built."""
        keys = {"problem", "byzantine", "seed", "precision", "engine"}
        return sys.intern(repr(self.cell.config.model_dump(mode="json", include=keys)))

    @cached_property
    def batch(self) -> str:
        """The same for runs that may be computed together; "" for those that are computed alone."""
        config = self.cell.config
        if self.executor.has_batches and self.executor.has_cards and _goes_side_by_side(config):
            return sys.intern(_batch_of_networks(config))
        is_small = config.problem.name == "quadratic" and 0 < self.client_rounds <= _SMALL_CLIENT_ROUNDS
        has_lanes = is_small and (config.engine.clients_per_chunk or 1) == 1 and goes_with_others(config.algorithm)
        return sys.intern(_batch(config)) if self.executor.has_batches and has_lanes else ""


class RunQueue:
    """The runs of this pack: waiting, given to a child, at work elsewhere, and counts of the others."""

    def __init__(
        self,
        cells: Mapping[str, Cell],
        folder: Path,
        jobs: int,
        beginning: float,
        executor: Executor,
        *,
        waits: bool = True,
        began_at: float | None = None,
    ) -> None:
        """`beginning`, in [0, 1): where in the grid to begin, so that packs that work side by side meet late.

        `waits`: whether runs that are at work elsewhere may be left for this pack. What failed, or was stopped on
        request, since `began_at` (default: now) is not done once more.
        """
        self.counts: Counter[str] = Counter()
        self._waits = waits
        self._jobs = jobs
        self._elsewhere: dict[str, _Entry] = {}
        self._looked_at = 0.0
        self._doubted: set[str] = set()
        self._watch = Watch()
        self._entries = {digest: _Entry(cell, folder / f"{digest}.h5", executor) for digest, cell in cells.items()}
        self._waiting = dict(self._entries)
        try:
            self.began_at = time_in(folder) if began_at is None else began_at
        except OSError as error:
            raise UserError(f"--out {folder}: cannot write into this folder: {error.strerror}") from error
        self._sort_out(self._waiting)
        self._waiting = _in_order(self._waiting, beginning)
        self._num_alike = Counter(entry.batch for entry in self._waiting.values())
        """Of all runs that waited in the beginning."""

    @property
    def left(self) -> list[str]:
        """Digests of the runs that wait for a child."""
        return list(self._waiting)

    @property
    def elsewhere(self) -> list[Path]:
        """Results of the runs that others are at work on."""
        return [entry.out for entry in self._elsewhere.values()]

    def is_exhausted(self) -> bool:
        """Say whether nothing will be left to do, here or when somebody else gives up."""
        if not self._waits and not self._waiting:
            self._look_elsewhere()
        return not self._waiting and not (self._waits and self._elsewhere)

    def settle(self) -> None:
        """Count what is not done at the end of this pack."""
        if not self._waits:
            self.counts[ELSEWHERE] += len(self._elsewhere)
        self.counts["left"] += len(self._entries) - self.counts.total()
        self.counts = +self.counts  # without zeros

    def take(self, affinity: str | None, elsewhere: set[str]) -> Task | None:
        """Return runs that can be computed together, best those that the child is prepared for; None for now."""
        if self._elsewhere and time.monotonic() - self._looked_at > _LOOK_AGAIN_SECONDS:
            self._look_elsewhere()
        while self._waiting:
            chosen = self._choose(affinity, elsewhere)
            fresh = {digest: self._waiting[digest] for digest in chosen}
            # looked at again: since the folder was listed another pack may have taken them
            self._sort_out(fresh)
            free = [digest for digest in chosen if digest in self._waiting]
            if free:
                items = tuple((digest, self._waiting.pop(digest).payload) for digest in free)
                # a child keeps the last problem
                return Task(fresh[free[-1]].affinity, items)
        return None

    def doubts(self, digest: str) -> bool:
        """Say once of each run that failed under a claim that the claim may be somebody else's."""
        is_first = digest not in self._doubted
        self._doubted.add(digest)
        return is_first

    def put_back(self, digest: str) -> None:
        """Take back a run that turned out to be claimed by somebody else."""
        self._elsewhere[digest] = self._entries[digest]

    def _choose(self, affinity: str | None, elsewhere: set[str]) -> list[str]:
        entries = self._waiting
        wanted = (digest for digest, entry in entries.items() if entry.affinity == affinity)
        others = (digest for digest, entry in entries.items() if entry.affinity not in elsewhere)
        first = next(chain(wanted, others, entries))
        if not entries[first].batch:
            return [first]
        same = [digest for digest, entry in entries.items() if entry.batch == entries[first].batch]
        start = same.index(first)
        size = self._size_of_batch(entries[first], len(same))
        inline = same[start:] + same[:start]
        return _to_the_end_of_a_problem(entries, inline, min(max(1, size), _in_memory(entries, inline[:size])))

    def _size_of_batch(self, entry: _Entry, num_alike: int) -> int:
        # no more than leaves something for every child, unless that takes as long together as alone
        if not entry.cell.config.problem.has_statistics:
            # equal ones to the end, as long as a card has time for the rest of a batch; these have checkpoints
            return min(MAX_BATCH, -(-self._num_alike[entry.batch] // self._jobs))
        client_rounds = entry.client_rounds
        share = max(-(-num_alike // self._jobs), min(_FEW_CLIENT_ROUNDS // client_rounds, num_alike - self._jobs + 1))
        return min(MAX_BATCH, share, MAX_CLIENT_ROUNDS // client_rounds)

    def _sort_out(self, entries: Mapping[str, _Entry]) -> None:
        """Take out of the waiting runs those that are done, have failed meanwhile, or are claimed."""
        for out, state in self._states(entries).items():
            digest = out.stem
            if state.kind == "done" and not self._entries[digest].needs_local:
                self._drop(digest, "already done")
            elif state.kind == "running" and not self._is_silent(digest, state):
                self._elsewhere[digest] = self._waiting.pop(digest)
            elif state.kind == "failed" and self._came_meanwhile(failed_path(out)):
                self._drop(digest, "failed")
            elif state.kind == "stopped" and self._was_asked_to_stop(out):
                self._drop(digest, ON_REQUEST)

    def _states(self, entries: Mapping[str, _Entry]) -> dict[Path, RunState]:
        outs = [entry.out for entry in entries.values()]
        # to list a folder takes as long as it has files, and a grid of a hundred thousand runs has thousands of batches
        is_few = len(outs) * _LISTED_WHILE_ONE_IS_ASKED < len(self._entries)
        return {out: state_of(out) for out in outs} if is_few else states_of(outs)

    def _look_elsewhere(self) -> None:
        self._looked_at = time.monotonic()
        for digest, entry in list(self._elsewhere.items()):
            state = state_of(entry.out)
            if state.kind != "running" or self._is_silent(digest, state):
                self._waiting[digest] = self._elsewhere.pop(digest)

    def _is_silent(self, digest: str, state: RunState) -> bool:
        """Say whether a claim has not changed while we could have seen it: its age may say nothing."""
        return self._watch.look(digest, state.owner) > STALE_SECONDS

    def _drop(self, digest: str, status: str) -> None:
        del self._waiting[digest]
        self.counts[status] += 1

    def _was_asked_to_stop(self, out: Path) -> bool:
        """Say whether somebody wanted this run to stop since this pack, or the job that it is in, began."""
        if self._came_meanwhile(stop_path(out)):
            return True
        request, job = request_for(out), os.environ.get("SLURM_JOB_ID", "")
        return request is not None and not request.requeue and request.job == job != ""

    def _came_meanwhile(self, note: Path) -> bool:
        """Say whether a note on a run, of another pack say, was made since this pack began: then to do it once more
        would be once too often."""
        try:
            return note.stat().st_mtime >= self.began_at
        except OSError:
            return False


def _batch(config: Config) -> str:
    """Return the same for runs that look as if they could be computed together; whether they can is seen later."""
    apart = {"problem": {"seed", "zeta", "noise", "targets"}, "algorithm": set(config.algorithm.server_settings)}
    return repr(config.model_dump(mode="json", exclude={**apart, "name": True, "seed": True, "save": True}))


def _goes_side_by_side(config: Config) -> bool:
    """Say whether a run looks as if its clients could be computed on a card beside those of others."""
    return (
        not config.problem.has_statistics
        and config.device != "cpu"
        and config.asynchronous is None
        and config.byzantine is None
        and is_sum(config.aggregator)
        and goes_with_others(config.algorithm)
    )


def _batch_of_networks(config: Config) -> str:
    """Return the same for runs that differ in numbers of the method, in seeds, and in what the server does."""
    apart: dict[str, Any] = {"problem": {"seed"}, **dict.fromkeys(("name", "seed", "save", "server_optimizer"), True)}
    document = config.model_dump(mode="json", exclude=apart)
    return repr({**document, "algorithm": _without_numbers(document["algorithm"])})


def _without_numbers(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {key: _without_numbers(value) for key, value in settings.items()}
    return None if isinstance(settings, float) else settings


def _in_order(entries: Mapping[str, _Entry], beginning: float) -> dict[str, _Entry]:
    """Return the entries so that neighbours share a problem, or go into one batch, from a place in [0, 1) on."""
    # the sort is stable, so that the rest is as in the grid
    order = sorted(entries, key=lambda digest: (entries[digest].batch, entries[digest].affinity))
    first = int(beginning * len(order))
    # packs begin at different places: they meet, and find each other's claims, when most is done
    return {digest: entries[digest] for digest in order[first:] + order[:first]}


def _in_memory(entries: Mapping[str, _Entry], digests: list[str]) -> int:
    """Return how many of these have problems that a child may hold together."""
    problems: set[str] = set()
    for number, digest in enumerate(digests):
        problems.add(entries[digest].affinity)
        if len(problems) * entries[digest].problem_bytes > MAX_PROBLEM_BYTES:
            return max(1, number)
    return max(1, len(digests))


def _to_the_end_of_a_problem(entries: Mapping[str, _Entry], digests: list[str], size: int) -> list[str]:
    """Return about the first `size` of these; the last problem with all of its runs, unless it has more than that."""
    chosen, following = digests[:size], digests[size : size + 1]
    last = entries[chosen[-1]].affinity
    if not following or entries[following[0]].affinity != last:
        return chosen
    # whoever gets the rest would build the problem once more, which takes as long as several runs
    return [digest for digest in chosen if entries[digest].affinity != last] or chosen
