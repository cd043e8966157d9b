"""`ppfl plot`: curves of runs."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.cli.options import overrides_option, results_option, where_option
from ppfl.config.deferred import defer_torch


@click.command()
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FIGURE",
    help="Where to write it: .png, .pdf, .svg.",
)
@click.option("--metric", metavar="NAME", help="What to show. Default: operator_norm, test_accuracy or loss.")
@click.option(
    "--x",
    type=click.Choice(["round", "seconds", "virtual-seconds", "uplink-bytes", "bytes", "gradients"]),
    default="round",
    show_default=True,
    help="What to show it against.",
)
@click.option("--panel", metavar="KEY", help="The key whose values become panels.")
@click.option("--color", metavar="KEY", help="The key whose values become colours.")
@where_option
@results_option
@overrides_option
def plot(
    source: Path,
    out: Path,
    metric: str | None,
    x: str,
    panel: str | None,
    color: str | None,
    where: tuple[str, ...],
    results: Path | None,
    overrides: tuple[str, ...],
) -> int:
    """Draw curves of runs: what varies becomes panels and colours; seeds become a median and a band.

    SOURCE is a result, a folder of results, a configuration file, or a file of `ppfl collect`. Runs that are not
    complete are marked; what is not there is told below the figure.
    """
    defer_torch()
    from ppfl.analysis.plot import check_format
    from ppfl.analysis.plot import plot as plot_runs
    from ppfl.analysis.sources import open_source

    out = check_format(out)
    found = open_source(source, results, overrides).where(where)
    notes = plot_runs(found, out, metric, x, panel, color)
    for line in [*found.warnings(), *notes]:
        click.echo(f"ppfl: {line}", err=True)
    click.echo(out)
    return 0
