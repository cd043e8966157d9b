"""The command line: the only place that parses arguments; one file a command.

Exit codes: 0 done or already done, 2 a mistake that the user can correct, 1 a failure of the program, 75 and 76 stopped
with everything saved, 130 interrupted (`ppfl.jobs.stopping`).
"""

from __future__ import annotations

import click

from ppfl import __version__
from ppfl.cli.collect import collect
from ppfl.cli.data import data
from ppfl.cli.diagnose import diagnose
from ppfl.cli.doctor import doctor
from ppfl.cli.ended import ended
from ppfl.cli.grid import grid
from ppfl.cli.group import Commands
from ppfl.cli.hurt import hurt
from ppfl.cli.log import log
from ppfl.cli.pack import pack
from ppfl.cli.payments import payments
from ppfl.cli.plot import plot
from ppfl.cli.run import run
from ppfl.cli.show import show
from ppfl.cli.status import status
from ppfl.cli.stop import stop
from ppfl.cli.submit import submit
from ppfl.cli.table import table
from ppfl.cli.timeline import timeline
from ppfl.cli.timing import timing
from ppfl.cli.verify import verify


@click.group(cls=Commands, context_settings={"max_content_width": 110})
@click.version_option(__version__, prog_name="ppfl")
def main() -> None:
    """Partially personalized federated learning.

    \b
    ppfl run CONFIG                         one process
    mpiexec -n N python -m mpi4py -m ppfl run CONFIG
    srun --mpi=pmi2 python -m mpi4py -m ppfl run CONFIG

    CONFIG is a YAML file with one run or with a grid of runs. A result is an HDF5 file named by the digest of the
    configuration; a run that has a complete result is not repeated.

    Exit codes: 0 done or already done, 2 a mistake in the configuration or the command, 1 a failure of the program,
    75 stopped by a signal with everything saved (start it again to continue), 76 the same by `ppfl stop`,
    130 interrupted.
    """  # noqa: D301, a backspace tells click to keep the lines as they are


for _command in (
    run,
    pack,
    submit,
    grid,
    status,
    stop,
    log,
    show,
    collect,
    table,
    hurt,
    payments,
    plot,
    timing,
    timeline,
    diagnose,
    data,
    verify,
    doctor,
    ended,
):
    main.add_command(_command)
