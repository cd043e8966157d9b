"""Which runs somebody means: a configuration, a result, a folder, or a job of Slurm."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppfl.config.grid import choose_cell, planned
from ppfl.core.errors import UserError
from ppfl.jobs.owner import read_owner
from ppfl.jobs.slurm import NoAnswerError, ask
from ppfl.results.layout import CLAIM_SUFFIX, RESULT_SUFFIX, final_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_JOB = re.compile(r"\d+(_\d+)?")
_DIGEST = re.compile(r"[0-9a-f]+")
_MAX_LISTED = 5
_DEPTH = 4
"""How far below a folder results are looked for."""


@dataclass(frozen=True)
class Job:
    """A job of Slurm, or a task of an array, as squeue knows it."""

    id: str
    state: str
    folder: Path
    """Where it was submitted."""

    @property
    def is_running(self) -> bool:
        """True from its start until all of it is over."""
        return self.state in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED")


def is_job(target: str) -> bool:
    """Say whether this is the number of a job, and no file."""
    return _JOB.fullmatch(target) is not None and not Path(target).exists()


def jobs(number: str) -> list[Job]:
    """Return what squeue knows of a job: several entries for an array. Raises UserError when it cannot be asked."""
    if shutil.which("squeue") is None:
        raise UserError(f"{number}: no squeue here to ask; give a result, a folder or a configuration")
    try:
        answer = ask(["squeue", "--noheader", f"--jobs={number}", "--states=all", "--format=%A|%T|%Z"])
    except NoAnswerError as error:
        # what squeue says of jobs that are over for some minutes, with an exit code like that of any trouble
        if "Invalid job id" in str(error):
            return []
        raise UserError(f"{number}: {error}") from error
    # the folder comes last, since its name may hold the separator
    rows = [line.split("|", 2) for line in answer.splitlines() if line.count("|") >= 2]
    return [Job(row[0], row[1], Path(row[2])) for row in rows]


def results_of_job(job: Job) -> list[Path]:
    """Return the results that a job has claims on, in the folder where it was submitted and not far below."""
    claims = {claim: read_owner(claim) for claim in _claims(job.folder, _DEPTH)}
    return sorted(_result_of(claim) for claim, owner in claims.items() if owner is not None and owner.job == job.id)


@dataclass(frozen=True)
class Meant:
    """Results, and the folders whose packs are meant as a whole."""

    results: tuple[Path, ...]
    folders: tuple[Path, ...] = ()


def find(target: Path, overrides: Sequence[str] = (), cell: str | None = None, results: Path | None = None) -> Meant:
    """Return the runs of a configuration file, of a folder, or the one of a result; their claims lie beside these.

    Raises UserError for what is none of these.
    """
    if target.suffix == RESULT_SUFFIX or target.is_dir():
        if cell is not None or overrides or results is not None:
            raise UserError(f"{target}: --cell, --set and --results are for a configuration file")
        return _in_folder(target) if target.is_dir() else Meant(_named(target))
    if cell is not None:
        chosen = choose_cell(target, overrides, cell)
        return Meant(((results or chosen.config.default_out().parent) / f"{chosen.digest}{RESULT_SUFFIX}",))
    plan = planned(target, overrides, results)
    return Meant(tuple(plan), (next(iter(plan)).parent,))


def one_run(run: str, overrides: Sequence[str], cell: str | None, results: Path | None) -> tuple[Path, ...]:
    """Return the result of one run, and what else may be meant by its name.

    `run` is a result, a configuration file, or the beginning of a digest: then its logs are looked for in `results`, or
    below the folder `results`. Raises UserError when it is none of these, or several.
    """
    path = Path(run)
    if path.suffix == RESULT_SUFFIX:
        return find(path, overrides, cell, results).results
    if path.is_file() or _DIGEST.fullmatch(run) is None:
        digest = choose_cell(path, overrides, cell).digest
        return find(path, overrides, digest, results).results
    folders = [results] if results is not None else sorted(Path("results").glob("*"))
    logs = [log for folder in folders for log in sorted((folder / "logs").glob(f"{run}*"))]
    if len(logs) != 1:
        found = f"several runs: {', '.join(map(str, logs[:_MAX_LISTED]))}" if logs else "no log of such a run"
        where = results or "results"
        raise UserError(f"{run}: {found} in {where}; give a result, a configuration or a digest, and --results")
    return (logs[0].parent.parent / f"{logs[0].name}{RESULT_SUFFIX}",)


def _in_folder(folder: Path) -> Meant:
    results = sorted(map(_result_of, _claims(folder, _DEPTH)))
    return Meant(tuple(results), tuple(dict.fromkeys((folder, *(result.parent for result in results)))))


def _named(result: Path) -> tuple[Path, ...]:
    """Return the result that a path is meant for: also the one that is computed there and delivered elsewhere."""
    return tuple(dict.fromkeys((final_folder(result) / result.name, result)))


def _claims(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        if entry.name.endswith(CLAIM_SUFFIX):
            yield Path(entry.path)
        # links may lead in a circle, or into the home of somebody else
        elif depth and not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _claims(Path(entry.path), depth - 1)


def _result_of(claim: Path) -> Path:
    return claim.with_name(claim.name.removesuffix(CLAIM_SUFFIX))
