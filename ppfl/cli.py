"""The command line: the only place that parses arguments.

Exit codes: 0 done or already done, 2 a mistake that the user can correct, 1 a failure of the program.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ppfl import __version__
from ppfl.core.errors import UserError
from ppfl.deferred import defer_torch
from ppfl.launcher import launched_as

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.grid import Cell

USER_ERROR = 2


class _Commands(click.Group):
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


@click.group(cls=_Commands, context_settings={"max_content_width": 110})
@click.version_option(__version__, prog_name="ppfl")
def main() -> None:
    """Partially personalized federated learning.

    \b
    ppfl run CONFIG                         one process
    mpiexec -n N python -m mpi4py -m ppfl run CONFIG
    srun --mpi=pmi2 python -m mpi4py -m ppfl run CONFIG

    CONFIG is a YAML file with one run or with a grid of runs. A result is an HDF5 file named by the digest of the
    configuration; a run that has a complete result is not repeated.

    Exit codes: 0 done or already done, 2 a mistake in the configuration or the command, 1 a failure of the program.
    """  # noqa: D301, a backspace tells click to keep the lines as they are


_config = click.argument("config", type=click.Path(path_type=Path))
_overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY.PATH=VALUE",
    help="Replace one value of the configuration, e.g. --set algorithm.lr=0.1; VALUE is YAML. Repeatable.",
)


@main.command()
@_config
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the result. Default: results/<name>/<digest>.h5",
)
@_overrides
@click.option("--cell", metavar="DIGEST", help="Which run of a grid: its digest, or a unique beginning of it.")
def run(config: Path, out: Path | None, overrides: tuple[str, ...], cell: str | None) -> int:
    """Run one experiment and write its result.

    Of a file with a grid, --cell says which run; `ppfl grid CONFIG` lists them. An existing result is never
    overwritten: a complete one of the same run ends the command with "already done", an incomplete one is moved
    aside, and that of another run is an error.
    """
    from ppfl.grid import choose_cell

    chosen = choose_cell(config, overrides, cell).config
    out = out or chosen.default_out()
    rank = launched_as().rank

    from ppfl.experiment import run as run_experiment
    from ppfl.progress import Bar, choose_progress, show_warnings

    show_warnings(rank)
    progress = choose_progress(rank)
    try:
        status = run_experiment(chosen, out, progress)
    finally:
        if isinstance(progress, Bar):
            progress.close()
    if rank == 0:
        click.echo(f"{status}: {out}")
    return 0


@main.command()
@_config
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where results go, one <digest>.h5 a run. Default: results/<name>",
)
@_overrides
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Child processes. Default: one a core.")
def pack(config: Path, out: Path | None, overrides: tuple[str, ...], jobs: int | None) -> int:
    """Run all runs of a grid on this machine, several at once, without starting a program for each.

    What is complete is not repeated. A run that fails leaves <digest>.failed.txt and does not touch the others; the
    exit code is 1 then. A diverged run is a result like any other. Not to be started by mpiexec.
    """
    defer_torch()
    from ppfl.grid import load_cells
    from ppfl.pack.command import default_jobs, pack

    cells = load_cells(config, overrides)
    folder = out or next(iter(cells.values())).config.default_out().parent
    counts = pack(cells, folder, jobs or default_jobs(), lambda line: click.echo(f"ppfl: {line}", err=True))
    click.echo(f"{', '.join(f'{counts[status]} {status}' for status in sorted(counts))}: {folder}")
    return 1 if counts["failed"] else 0


@main.command()
@_config
@_overrides
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: digest, what varies and default result file of each run."
)
def grid(config: Path, overrides: tuple[str, ...], as_json: bool) -> int:
    """List the runs of a file: the digest of each, and what varies between them."""
    defer_torch()
    from ppfl.grid import load_cells

    cells = list(load_cells(config, overrides).values())
    if launched_as().rank == 0:
        _print_json(cells) if as_json else _print_table(cells)
    return 0


def _print_json(cells: Sequence[Cell]) -> None:
    rows = [{"digest": cell.digest, "varying": cell.varying, "out": str(cell.config.default_out())} for cell in cells]
    click.echo(json.dumps(rows, indent=1))


def _print_table(cells: Sequence[Cell]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ppfl.config_errors import show_value
    from ppfl.show import wide_console

    paths = list(dict.fromkeys(path for cell in cells for path in cell.varying))
    table = Table("digest", *paths)
    for cell in cells:
        values = [show_value(cell.varying[path]) if path in cell.varying else "" for path in paths]
        table.add_row(cell.digest, *map(Text, values))
    wide_console().print(table)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> int:
    """Show what a result holds: configuration, final metrics, provenance, status."""
    defer_torch()
    from ppfl.show import show as show_result

    if launched_as().rank == 0:
        show_result(file)
    return 0


@main.command()
@click.argument("source", metavar="CONFIG|RESULT", type=click.Path(path_type=Path))
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="GLOBS",
    help="Local parameters of a candidate split, e.g. --split 'head.*' or --split 'hidden.*,head.*'; '' shares "
    "everything. Repeatable. Default: the split of the file.",
)
@click.option("--rounds", type=click.IntRange(min=1), metavar="N", help="Rounds to train. Default: the file's.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all numbers there.")
def diagnose(source: Path, splits: tuple[str, ...], rounds: int | None, json_file: Path | None) -> int:
    """How overpersonalized is a split: do the clients, each with its own w, want the same shared parameters?

    ρ compares what still pulls on θ at its end with what pulled at its start. A configuration is trained first, in
    memory, once for each split; a result is examined as it ended. A quadratic is not trained: its ρ is exact.
    docs/diagnose.md says how ρ is estimated and what the verdicts rest on.
    """
    from ppfl.diagnose.command import plan
    from ppfl.diagnose.command import run as run_diagnosis
    from ppfl.progress import choose_progress, show_warnings

    rank = launched_as().rank
    show_warnings(rank)
    found = run_diagnosis(plan(source, splits, rounds), json_file, choose_progress(rank))
    if rank == 0:
        from ppfl.diagnose.table import render
        from ppfl.diagnose.verdict import verdict
        from ppfl.show import wide_console

        wide_console().print(render(found))
        for one in found:
            click.echo(verdict(one))
    return 0


@main.command()
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
    from ppfl.doctor import examine

    return USER_ERROR if examine(out) else 0
