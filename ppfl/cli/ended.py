"""`ppfl ended`: what slurm/continue.sh calls when ranks have ended badly."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ppfl.cli.pack import pack
from ppfl.cli.run import run
from ppfl.config.deferred import defer_torch

if TYPE_CHECKING:
    from pathlib import Path


@click.command(hidden=True, context_settings={"allow_interspersed_args": False})
@click.argument("code", type=int)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ended(code: int, command: tuple[str, ...]) -> int:
    """Write the reason of the end beside the results of a command that was killed.

    CODE is the exit code of the step, COMMAND the launcher with `ppfl run …` or `ppfl pack …`.
    """
    defer_torch()
    from ppfl.submit.ended import note_end

    noted = note_end(code, _results(command), os.environ)
    if noted:
        click.echo(f"ppfl: {noted} run(s) ended without a word; why: ppfl status", err=True)
    return 0


def _results(command: tuple[str, ...]) -> dict[Path, str]:
    """Return {result: what varies} of the runs that a command is about."""
    from ppfl.config.grid import choose_cell, planned, show_varying

    names = [number for number, word in enumerate(command) if word in ("run", "pack")]
    if not names:
        return {}
    start = names[0]
    subcommand = run if command[start] == "run" else pack
    with subcommand.make_context(command[start], list(command[start + 1 :])) as context:
        given = context.params
    if subcommand is run:
        cell = choose_cell(given["config"], given["overrides"], given["cell"])
        return {given["out"] or cell.config.default_out(): show_varying(cell.varying)}
    plan = planned(given["config"], given["overrides"], given["out"])
    return {out: show_varying(cell.varying) for out, cell in plan.items()}
