"""`ppfl doctor`: what works here."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.core.errors import USER_ERROR


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results"),
    metavar="FOLDER",
    show_default=True,
    help="Folder of results, to be tried for file locks.",
)
def doctor(out: Path) -> int:
    """Examine this installation: Python, torch and its devices, MPI and its launcher, HDF5, file locks.

    Each finding says what to do about it. Start it as you start a run, e.g. under mpiexec, to see every rank and its
    device. Exit code 2 when something does not work.
    """
    from ppfl.status.doctor import examine

    return USER_ERROR if examine(out) else 0
