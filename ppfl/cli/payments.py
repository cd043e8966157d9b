"""`ppfl payments`: what clients pay for what they sent, and what lying gains them."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.cli.written import write_text
from ppfl.config.deferred import defer_torch


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--price",
    "prices",
    multiple=True,
    required=True,
    type=click.FloatRange(min=0.0),
    metavar="C",
    help="On squared norms: p_i = C (‖m_i‖² − mean of the others'). Repeatable.",
)
@click.option("--loss", metavar="NAME", help="Final score of clients that is their loss. Default: f_i itself.")
@click.option("--deviators", is_flag=True, help="Rows of strategic clients alone.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["text", "csv"]),
    default="text",
    show_default=True,
    help="CSV has all digits.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Default: standard output."
)
def payments(
    sources: tuple[Path, ...],
    prices: tuple[float, ...],
    loss: str | None,
    deviators: bool,
    format_name: str,
    out: Path | None,
) -> int:
    """Tabulate payments, utilities and the gain of lying, a row a run, price and client.

    SOURCE are results, or folders of them, with `evaluate: {every: 1, reports: [squared_norm]}`. A client's utility is
    minus its loss at the end and minus its payments; its gain is that over the run that differs in nothing but that
    all clients tell the truth. Payments are made afterwards: one run serves every price.
    """
    defer_torch()
    from ppfl.analysis.payment_table import FORMATS, files_of, tabulate
    from ppfl.core.errors import UserError

    if not all(price < float("inf") for price in prices):
        raise UserError("--price: allowed: finite numbers of at least 0")
    table = tabulate(files_of(sources), prices, loss, deviators=deviators)
    for line in table.notes:
        click.echo(f"ppfl: {line}", err=True)
    text = FORMATS[format_name](table)
    write_text(text, out)
    return 0
