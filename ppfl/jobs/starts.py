"""Whether what runs start from is there, and which command makes it."""

from __future__ import annotations

from shlex import join
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.results.layout import apart_path, kept_start_path, shared_path
from ppfl.results.quick_reader import attributes_of, is_finished

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ppfl.config.run import Config
    from ppfl.config.start import StartedRun


def refuse_missing_starts(runs: Iterable[tuple[Config, Path]]) -> None:
    """Raise UserError when a run cannot start, naming the command that makes what it starts from.

    runs: configurations, and where their results go. A run that is finished, or whose checkpoints have kept what it
    started from, needs nothing.
    """
    missing: dict[str, str] = {}
    for config, out in runs:
        run = config.start.run if config.start is not None else None
        if run is None or run.digest in missing or is_finished(out) or _is_kept(run, out):
            continue
        if why := why_not_ready(run.result, run.digest):
            missing[run.digest] = f"start: {why}; it comes from: {command_of(run)}"
    if missing:
        first, *others = missing.values()
        raise UserError(first + (f" (and {len(others)} more that runs start from)" if others else ""))


def why_not_ready(result: Path, digest: str) -> str:
    """Return why nothing can start from a run, in one line; "" when it is complete."""
    try:
        found = attributes_of(result)
    except FileNotFoundError:
        return f"{result}: no such result"
    except OSError as error:
        return f"{result}: cannot be read: {error.strerror}"
    except UserError as error:
        return str(error)
    if found.get("digest") != digest:
        return f"{result}: holds run {found.get('digest')}, and not {digest}"
    if found.get("status") == "diverged":
        return f"{result}: has diverged; allowed: a run that is complete"
    if found.get("status") != "complete":
        return f"{result}: is not finished"
    # θ is saved before a result is complete, but people remove what is large
    return "" if shared_path(result).exists() else f"{shared_path(result)}: no such file, and θ was in it"


def command_of(run: StartedRun) -> str:
    """Return the command that makes the result of a run."""
    return join(["ppfl", "run", *run.arguments]) if run.arguments else f"run {run.digest}"


def _is_kept(run: StartedRun, out: Path) -> bool:
    return any(kept_start_path(path, run.result.name).exists() for path in (out, apart_path(out)))
