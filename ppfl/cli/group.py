"""A group of commands whose errors are single lines, and the exit codes of all of them."""

from __future__ import annotations

import sys
from typing import Any

import click

from ppfl.core.errors import UserError
from ppfl.launcher import launched_as

USER_ERROR = 2


class Commands(click.Group):
    """A group of commands whose errors are single lines, printed by one process of a job."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line and exit with its code."""
        standalone_mode = options.get("standalone_mode", True)
        try:
            code = super().main(*args, **{"prog_name": "ppfl"} | options | {"standalone_mode": False})
        except UserError as error:
            code = _tell(error)
        except click.exceptions.NoArgsIsHelpError as error:
            if launched_as().rank == 0:
                click.echo(error.format_message(), err=True)
            code = USER_ERROR
        except click.ClickException as error:
            code = _tell(UserError(_one_line(error)))
        except click.Abort:
            _tell(UserError("interrupted"))
            code = 1
        if standalone_mode:
            sys.exit(code)
        return code


def _one_line(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "ppfl"
    return f"{' '.join(error.format_message().split())} See `{command} --help`."


def _tell(error: UserError) -> int:
    """Print what is wrong: rank 0 for all, or the rank itself when the others may know nothing of it."""
    rank = launched_as().rank
    if "mpi4py.MPI" not in sys.modules:
        # before MPI starts all processes do the same and find the same mistake
        if rank == 0:
            _print(error)
        return USER_ERROR
    from ppfl.comm.mpi import MpiCommunicator
    from ppfl.core.agree import SharedUserError

    if not isinstance(error, SharedUserError):
        _print(error, f"rank {rank}: ")
        MpiCommunicator().abort(USER_ERROR)  # the other ranks may wait for this one
    if rank == 0:
        _print(error)
    # the first rank to end takes down the others, so none ends before rank 0 has told why
    MpiCommunicator().barrier()
    return USER_ERROR


def _print(error: UserError, who: str = "") -> None:
    for line in error.lines:
        click.echo(f"ppfl: error: {who}{line}", err=True)
