"""The state of every run of a grid or of a folder, from the files, and from Slurm where there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppfl.config.grid import planned, refuse_for_results
from ppfl.jobs.goes_on import goes_on_from
from ppfl.jobs.leftovers import clear_folder
from ppfl.jobs.owner import Watch
from ppfl.jobs.states import KINDS, RunState, results_in, states_of
from ppfl.results.layout import apart_path, checkpoint_path
from ppfl.status.queue import Job, Queue


@dataclass(frozen=True)
class Runs:
    """Which runs are looked at: where the result of each goes, and what varies, in words."""

    folder: Path
    cells: Mapping[Path, str]
    rounds: Mapping[Path, int] = field(default_factory=dict)
    """How many rounds each is to have, where that is known."""
    queue: Queue | None = None
    _watch: Watch = field(default_factory=Watch)

    def survey(self) -> Survey:
        """Look at the files now, and at Slurm's queue."""
        states = states_of(self.cells, self._watch)
        places = {out: _place(out) for out in states}
        told = {out: self._tell_round(out, places[out], state) for out, state in states.items()}
        return Survey(self, told, places, self.queue.jobs() if self.queue else ())

    def _tell_round(self, out: Path, place: Path, state: RunState) -> RunState:
        """Add the round from which a run goes on; one that has just begun again may not have said so yet."""
        if state.kind in ("done", "missing") or (from_round := goes_on_from(place)) is None:
            return state
        facts = {
            "goes_on_from": from_round,
            **({"rounds": self.rounds[out]} if out in self.rounds else {}),
            **state.facts,
        }
        told = state.facts.get("round")
        # a claim says 0 until the first round after a start is done
        if state.kind == "running" and not (isinstance(told, int) and told > from_round):
            facts["round"] = from_round
        return RunState(state.kind, facts)


@dataclass(frozen=True)
class Survey:
    """What every run is at, at one moment."""

    runs: Runs
    states: Mapping[Path, RunState]
    places: Mapping[Path, Path]
    """Where the files of each run are now."""
    jobs: Sequence[Job] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Return {kind: number of runs}, every kind, in a fixed order."""
        found = Counter(state.kind for state in self.states.values())
        return {kind: found[kind] for kind in KINDS}

    @property
    def is_at_rest(self) -> bool:
        """True when nobody is at work on any of the runs, and no job is queued for one."""
        return not (self.counts["running"] or self.queued or self.jobs_of_all)

    @property
    def queued(self) -> dict[Path, Job]:
        """Return the job that Slurm has for each run that nobody is at work on and that is not done."""
        jobs = {job.digest: job for job in self.jobs if job.digest is not None}
        return {
            out: jobs[out.stem]
            for out, state in self.states.items()
            if out.stem in jobs and state.kind not in ("done", "running")
        }

    @property
    def jobs_of_all(self) -> list[Job]:
        """Return the jobs that work on the grid as a whole."""
        return [job for job in self.jobs if job.digest is None]

    def as_json(self) -> dict[str, Any]:
        """Return counts, jobs, and of every run digest, result, kind, what varies and what its files and Slurm say."""
        queued = self.queued
        runs = [
            {"digest": out.stem, "out": str(self.places[out]), "cell": self.runs.cells[out], "state": state.kind}
            | dict(state.facts)
            | ({"queued": queued[out].as_json()} if out in queued else {})
            for out, state in self.states.items()
        ]
        jobs = [job.as_json() for job in self.jobs_of_all]
        return {"folder": str(self.runs.folder), "counts": self.counts, "jobs": jobs, "runs": runs}


def find_runs(source: Path, results: Path | None, overrides: Sequence[str] = ()) -> Runs:
    """Return the runs of a configuration file, or those that a folder shows signs of.

    Raises UserError for what is neither.
    """
    if source.is_dir():
        refuse_for_results(source, results, overrides)
        clear_folder(source)
        return Runs(source, dict.fromkeys(results_in(source), ""), queue=Queue(source))
    plan = planned(source, overrides, results)
    folder = next(iter(plan)).parent
    # whoever looks at a folder tidies it up as well: nobody else may ever come by
    clear_folder(folder)
    rounds = {out: cell.config.rounds for out, cell in plan.items()}
    return Runs(folder, {out: str(cell) for out, cell in plan.items()}, rounds, Queue(folder))


def _place(out: Path) -> Path:
    """Return where the files of a run are: in the folder for runs that are to be delivered, when it began there."""
    apart = apart_path(out)
    has_begun = apart.exists() or checkpoint_path(apart).exists()
    return apart if has_begun and not out.exists() else out
