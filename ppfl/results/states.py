"""What has become of a run, told from its result and the files beside it.

What is trusted, in this order: a result that says itself that it has ended, and that alone (θ is saved before, so it
may lie beside an unfinished one), `.running.json` (somebody works on it, or died over it), `.failed.json` (the last
attempt failed), `.checkpoint/` (it was stopped).
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ppfl.core.errors import UserError
from ppfl.results.claim import has_ended
from ppfl.results.layout import STALE_SECONDS, checkpoint_path, failed_path, running_path
from ppfl.results.quick_reader import is_finished

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
    """What `.running.json` says of a running or stale run, and `.failed.json` of a failed one."""


def state_of(result: Path) -> RunState:
    """Return what has become of one run."""
    beside = (result, running_path(result), failed_path(result), checkpoint_path(result))
    return _state(result, {path.name for path in beside if path.exists()})


def states_of(results: Iterable[Path]) -> dict[Path, RunState]:
    """Return what has become of many runs, in their order; every folder is listed once."""
    wanted = list(results)
    listings = {folder: _names_in(folder) for folder in {result.parent for result in wanted}}
    return {result: _state(result, listings[result.parent]) for result in wanted}


def results_in(folder: Path) -> list[Path]:
    """Return the results that a folder has or is going to have, as far as files say, by name.

    Raises UserError for what is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of results, or a configuration file")
    marks = (".h5.running.json", ".h5.failed.json", ".h5.checkpoint")
    stems = {name.removesuffix(mark) for name in _names_in(folder) for mark in (*marks, ".h5") if name.endswith(mark)}
    return [folder / f"{stem}.h5" for stem in sorted(stems) if ".incomplete-" not in stem and not stem.startswith(".")]


def is_stale(facts: Mapping[str, Any], now: float) -> bool:
    """Say whether whoever wrote this `.running.json` is gone: silent for a minute, or a dead process of this host."""
    if now - float(facts.get("updated", 0.0)) > STALE_SECONDS:
        return True
    return facts.get("host") == platform.node() and has_ended(int(facts.get("pid", 0)))


def _state(result: Path, names: set[str]) -> RunState:
    running, failed = running_path(result), failed_path(result)
    if result.name in names and is_finished(result):
        return RunState("done")  # what is left beside it is of a process that was killed right after, or came too late
    if running.name in names and (facts := _read(running)) is not None:
        return RunState("stale" if is_stale(facts, time.time()) else "running", facts)
    if failed.name in names and (facts := _read(failed)) is not None:
        return RunState("failed", facts)
    return RunState("stopped" if checkpoint_path(result).name in names else "missing")


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a file says; None when it has gone in the meantime, {} when it makes no sense."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _names_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()
