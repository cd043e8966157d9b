"""`ppfl table`: what varies and what came of it."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.cli.options import overrides_option, results_option, where_option
from ppfl.cli.written import write_text
from ppfl.config.deferred import defer_torch


@click.command()
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="What to show. Repeatable.")
@click.option(
    "--at", metavar="WHEN", help="last, best, or a round. Default: by stage where there are stages, else last."
)
@click.option(
    "--statistic",
    default="mean",
    show_default=True,
    metavar="NAME",
    help="Over clients, of metrics by stage: mean, weighted_mean, q10, q50 or q90.",
)
@click.option("--seeds", is_flag=True, help="One row a run, instead of the median [lowest, highest] over seeds.")
@click.option(
    "--worst",
    metavar="KEY",
    help="Over the values of this key or section, such as attack: the one with the worst mean over seeds, and which.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["text", "csv", "markdown", "latex"]),
    default="text",
    show_default=True,
    help="CSV has all digits.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Default: standard output."
)
@where_option
@results_option
@overrides_option
def table(
    source: Path,
    metrics: tuple[str, ...],
    at: str | None,
    statistic: str,
    seeds: bool,
    worst: str | None,
    format_name: str,
    out: Path | None,
    where: tuple[str, ...],
    results: Path | None,
    overrides: tuple[str, ...],
) -> int:
    """Tabulate runs: what varies, how they ended, final metrics; seeds become a median and a range.

    SOURCE is a result, a folder of results, a configuration file, or a file of `ppfl collect`. Scores are over complete
    runs; the column `status` counts all. With --worst, runs that diverged are the worst.
    """
    defer_torch()
    from ppfl.analysis.comparison_table import compare
    from ppfl.analysis.sources import open_source
    from ppfl.analysis.table_formats import FORMATS
    from ppfl.core.errors import UserError
    from ppfl.core.numbers import whole_number

    if at not in (None, "last", "best") and whole_number(str(at)) is None:
        raise UserError(f"--at {at}: no such time; allowed: last, best, or a round")
    found = open_source(source, results, overrides).where(where)
    compared = compare(found, metrics, at, seeds=seeds, statistic=statistic, worst=worst)
    text = FORMATS[format_name](compared)
    for line in [*found.warnings(), *compared.notes]:
        click.echo(f"ppfl: {line}", err=True)
    write_text(text, out)
    return 0
