"""What has become of a run, told from its result and the files beside it.

What is trusted, in this order: a result that says itself that it has ended, and that alone (θ is saved before, so it
may lie beside an unfinished one), `.failed.json` (the last attempt failed), `.running.json` (somebody works on it, or
died over it), `.checkpoint/` (it was stopped).
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ppfl.core.errors import UserError
from ppfl.jobs.failures import failure_since
from ppfl.jobs.owner import Clocks, Owner, Watch, read_owner
from ppfl.results.layout import STALE_SECONDS, WORK_FOLDER, apart_path, checkpoint_path, failed_path, running_path
from ppfl.results.quick_reader import is_finished, why_unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Kind = Literal["done", "running", "stopped", "failed", "stale", "missing"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class RunState:
    """`done` (complete or diverged), `running`, `stopped` (has a checkpoint), `failed`, `stale` (claimed by something
    dead) or `missing`."""

    kind: Kind
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What `.running.json` says of a running or stale run, and `.failed.json` of a failed one; `last_seen` where it
    cannot be told whether anybody is still at work."""
    owner: Owner | None = None
    """Whose claim lies there, of a running or stale run."""


def state_of(result: Path) -> RunState:
    """Return what has become of one run."""
    beside = (result, running_path(result), failed_path(result), checkpoint_path(result))
    names = {path.name for path in beside if os.path.lexists(path)}
    apart = checkpoint_path(apart_path(result))
    return _state(result, names | ({f"{WORK_FOLDER}/{apart.name}"} if apart.exists() else set()), Clocks())


def states_of(results: Iterable[Path], watch: Watch | None = None) -> dict[Path, RunState]:
    """Return what has become of many runs, in their order; every folder is listed once.

    watch: of whoever looks again and again. A claim whose age cannot be told is stale when it has not changed for
    `STALE_SECONDS` in which it was looked at.
    """
    wanted = list(results)
    listings = {folder: _names_in(folder) for folder in {result.parent for result in wanted}}
    clocks = Clocks()
    return {result: _state(result, listings[result.parent], clocks, watch) for result in wanted}


def results_in(folder: Path) -> list[Path]:
    """Return the results that a folder has or is going to have, as far as files say, by name.

    Raises UserError for what is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of results, or a configuration file")
    marks = (".h5.running.json", ".h5.failed.json", ".h5.checkpoint")
    names = {name.removeprefix(f"{WORK_FOLDER}/") for name in _names_in(folder)}
    stems = {name.removesuffix(mark) for name in names for mark in (*marks, ".h5") if name.endswith(mark)}
    return [folder / f"{stem}.h5" for stem in sorted(stems) if ".incomplete-" not in stem and not stem.startswith(".")]


def _state(result: Path, names: set[str], clocks: Clocks, watch: Watch | None = None) -> RunState:
    running, failed = running_path(result), failed_path(result)
    # the name is looked for in the listing first: opening thousands of files that are not there takes a shared file
    # system long
    if result.name in names and is_finished(result):
        return RunState("done")  # what is left beside it is of a process that was killed right after, or came too late
    owner = read_owner(running) if running.name in names else None
    if failed.name in names and (failure := failure_since(result, owner)) is not None:
        return RunState("failed", {key: value for key, value in asdict(failure).items() if value not in ("", None)})
    if owner is not None:
        return _claimed(result, owner, clocks, watch)
    if result.name in names and (why := why_unreadable(result)):  # it may hold anything
        return RunState("failed", {"reason": f"the result cannot be read: {why}"})
    is_stopped = {checkpoint_path(result).name, f"{WORK_FOLDER}/{checkpoint_path(result).name}"} & names
    return RunState("stopped" if is_stopped else "missing")


def _claimed(result: Path, owner: Owner, clocks: Clocks, watch: Watch | None) -> RunState:
    is_stale = clocks.is_stale(owner, result.parent)
    if is_stale is None and watch is not None and watch.look(str(result), owner) >= STALE_SECONDS:
        is_stale = True
    if is_stale is None:
        return RunState("running", {**owner.facts, "last_seen": owner.last_seen}, owner)
    return RunState("stale" if is_stale else "running", owner.facts, owner)


def _names_in(folder: Path) -> set[str]:
    """Return the names of what is in a folder, and in the one for runs that are to be delivered."""
    names = _listed(folder)
    apart = _listed(folder / WORK_FOLDER) if WORK_FOLDER in names else set()
    return names | {f"{WORK_FOLDER}/{name}" for name in apart}


def _listed(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
