"""A group of commands whose errors are single lines."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Any

import click

from ppfl.cli.streams import accept_any_text, finish_output, give_up_output
from ppfl.core.collector import not_at_the_end
from ppfl.core.errors import USER_ERROR, UserError, in_one_line
from ppfl.jobs.launcher import launched_as
from ppfl.jobs.stopping import INTERRUPTED

_PIPE_CLOSED = 1
"""Whoever read has enough; what click says of it too."""
_OUTPUT_REFUSED = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT)
_PLACE_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)
"""What the system says of a path that was given, whatever was to be done there: also to the question whether it is."""


class Commands(click.Group):
    """A group of commands whose errors are single lines, printed by one process of a job."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line and exit with its code."""
        standalone_mode = options.get("standalone_mode", True)
        accept_any_text()
        if standalone_mode:
            not_at_the_end()
        try:
            code = super().main(*args, **{"prog_name": "ppfl"} | options | {"standalone_mode": False})
            finish_output()
        except UserError as error:
            code = _tell(error)
        except click.exceptions.NoArgsIsHelpError as error:
            if launched_as().rank == 0:
                click.echo(error.format_message(), err=True)
            code = USER_ERROR
        except click.ClickException as error:
            code = _tell(UserError(_one_line(error)))
        except BrokenPipeError:
            give_up_output()
            code = _PIPE_CLOSED
        except OSError as error:
            if error.errno in _PLACE_REFUSED and isinstance(error.filename, str | bytes | os.PathLike):
                code = _tell(UserError(f"{os.fsdecode(error.filename)}: {error.strerror}"))
            elif error.errno in _OUTPUT_REFUSED and error.filename is None:
                give_up_output()
                code = _tell(UserError(f"standard output cannot be written: {error.strerror}"))
            else:
                _end_other_ranks(error)
                raise
        except click.Abort:
            code = _tell(UserError("interrupted"), INTERRUPTED)
        except (Exception, SystemExit) as error:
            _end_other_ranks(error)
            raise
        if standalone_mode:
            sys.exit(code)
        return code


def end_together(code: int, line: str) -> int:
    """Print a line on rank 0 and return the exit code on all ranks, after all are done. Collective."""
    if launched_as().rank == 0:
        click.echo(f"ppfl: {line}", err=True)
    _leave_together()
    return code


def _leave_together() -> None:
    """Finish with MPI, if it was begun: else the first rank to end with another code than 0 takes down the others."""
    if "mpi4py.MPI" in sys.modules:
        from ppfl.comm.mpi import leave

        leave()


def _one_line(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "ppfl"
    return f"{' '.join(error.format_message().split())} See `{command} --help`."


def _tell(error: UserError, code: int = USER_ERROR) -> int:
    """Print what is wrong: rank 0 for all, or the rank itself when the others may know nothing of it; return the exit
    code."""
    rank = launched_as().rank
    if "mpi4py.MPI" not in sys.modules:
        # before MPI starts all processes do the same and find the same mistake
        if rank == 0:
            _print(error)
        return code
    from ppfl.comm.mpi import abort
    from ppfl.core.agree import SharedUserError

    if not isinstance(error, SharedUserError):
        _print(error, f"rank {rank}: ")
        abort(code)  # the other ranks may wait for this one
    if rank == 0:
        _print(error)
    _leave_together()
    return code


def _end_other_ranks(error: BaseException) -> None:
    """End the job when one rank fails; without this the others would wait for it, and it for them, for ever."""
    code = (error.code if isinstance(error.code, int) else 1) if isinstance(error, SystemExit) else 1
    if code == 0 or "mpi4py.MPI" not in sys.modules:
        return
    from ppfl.comm.mpi import abort

    traceback.print_exception(error)
    abort(code)


def _print(error: UserError, who: str = "") -> None:
    for line in error.lines:
        click.echo(f"ppfl: error: {who}{in_one_line(line)}", err=True)
