"""`ppfl timing`: how many virtual seconds and bytes runs take, before any of them is computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ppfl.cli.options import config_argument, overrides_option
from ppfl.jobs.launcher import launched_as

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

_HEADER = ("rounds", "virtual seconds", "a round", "bytes up", "bytes down", "lost uplinks", "silent rounds")


@click.command()
@config_argument
@overrides_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write all rounds of all runs: .h5 or .csv.",
)
def timing(config: Path, overrides: tuple[str, ...], out: Path | None) -> int:
    """Tell the virtual seconds and the bytes of the runs of a file without their arithmetic.

    Data are dealt and messages counted; no client computes. The numbers are those that `ppfl run` records, round by
    round: from `compute_times`, `network`, cohorts, and the sizes of what the method sends. What is lost: uplinks of
    clients that drop out or come too late, and rounds in which the server heard too few clients.
    """
    from ppfl.cli.rows import print_rows
    from ppfl.cli.written import write_bytes
    from ppfl.config.errors import show_value
    from ppfl.config.grid import load_cells
    from ppfl.core.errors import UserError
    from ppfl.engine.timing import series
    from ppfl.jobs.launcher import open_communicator
    from ppfl.results.timing_file import FORMATS
    from ppfl.runs.assemble import build

    if out is not None and out.suffix not in FORMATS:
        raise UserError(f"--out {out}: allowed: a name that ends with {' or '.join(FORMATS)}")
    cells = list(load_cells(config, overrides).values())
    found = {cell.digest: series(build(cell.config, open_communicator())) for cell in cells}
    # all ranks know all numbers: one of them tells
    if launched_as().rank != 0:
        return 0
    paths = list(dict.fromkeys(path for cell in cells for path in cell.varying))
    varying = [[show_value(cell.varying[path]) if path in cell.varying else "" for path in paths] for cell in cells]
    rows = [(digest, *told, *_summary(of_run)) for told, (digest, of_run) in zip(varying, found.items(), strict=True)]
    print_rows(("digest", *paths, *_HEADER), rows)
    if out is not None:
        write_bytes(FORMATS[out.suffix](found), out)
        click.echo(out)
    return 0


def _summary(of_run: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    last = {name: values[-1] for name, values in of_run.items()}
    seconds, rounds = float(last["virtual_seconds"]), int(last["round"])
    return (
        f"{rounds:,}", f"{seconds:,.6g}", f"{seconds / rounds:,.4g}", f"{int(last['uplink_bytes']):,}",
        f"{int(last['downlink_bytes']):,}", f"{int(last['lost_uplinks']):,}", f"{int(last['silent_rounds']):,}",
    )  # fmt: skip
