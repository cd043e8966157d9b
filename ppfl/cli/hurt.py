"""`ppfl hurt`: clients that a run serves worse than others do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ppfl.config.deferred import defer_torch

if TYPE_CHECKING:
    from ppfl.results.hurt import Hurt, Scores

_HEADER = ("result", "method", "clients", "mean", "10th percentile", "worst 10 %", "hurt", "share", "tied")


@click.command()
@click.argument("result", metavar="RESULT", type=click.Path(path_type=Path))
@click.option(
    "--than", multiple=True, required=True, type=click.Path(path_type=Path), metavar="OTHER",
    help="A result to compare with, such as one of local_only or of fedavg. Repeatable.",
)  # fmt: skip
@click.option(
    "--metric", default="test_accuracy", show_default=True, metavar="NAME", help="Final score of single clients."
)
@click.option("--stage", default="personal", show_default=True, metavar="STAGE", help="Stage that is compared.")
@click.option("--than-stage", default="", metavar="STAGE", help="That of the others. Default: the same.")
def hurt(result: Path, than: tuple[Path, ...], metric: str, stage: str, than_stage: str) -> int:
    """Say how many clients of RESULT have a worse final score than in OTHER, and how the worst tenth fares.

    Clients are compared by name, on the same samples: results of other data, or of another seed of the data, are
    refused. Clients without a score are left out, and so are Byzantine ones and those that only answer others.
    """
    defer_torch()
    from ppfl.cli.rows import print_rows
    from ppfl.results.hurt import hurt as who_is_hurt

    found = who_is_hurt(result, than, metric, stage, than_stage)
    print_rows(_HEADER, _rows(found))
    left_out = {"no such score": found.num_unscored, "attackers": found.num_byzantine, "not main": found.num_answering}
    for what, number in left_out.items():
        if number:
            click.echo(f"ppfl: left out: {number} clients, {what}", err=True)
    return 0


def _rows(found: Hurt) -> list[tuple[str, ...]]:
    def fares(path: Path, method: str, scores: Scores) -> tuple[str, ...]:
        worst = found.worst(scores)
        numbers = (float(scores.mean()), worst.percentile, worst.mean)
        return (str(path), method, str(len(found.clients)), *(f"{number:.4g}" for number in numbers))

    rows = [(*fares(found.path, found.method, found.scores), "", "", "")]
    for other in found.others:
        counts = (str(other.num_hurt), f"{100 * other.share_hurt:.1f} %", str(other.num_tied))
        rows.append((*fares(other.path, other.method, other.scores), *counts))
    return rows
