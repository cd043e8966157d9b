"""`ppfl diagnose`: how overpersonalized a split is."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.jobs.launcher import launched_as


@click.command()
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
    from ppfl.runs.progress import choose_progress, show_warnings

    rank = launched_as().rank
    show_warnings(rank)
    found = run_diagnosis(plan(source, splits, rounds), json_file, choose_progress(rank))
    if rank == 0:
        from ppfl.diagnose.table import render
        from ppfl.diagnose.verdict import verdict
        from ppfl.status.show import wide_console

        wide_console().print(render(found))
        for one in found:
            click.echo(verdict(one))
    return 0
