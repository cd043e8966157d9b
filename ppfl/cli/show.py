"""`ppfl show`: what a result holds."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.config.deferred import defer_torch
from ppfl.jobs.launcher import launched_as


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> int:
    """Show what a result holds: configuration, final metrics, provenance, status."""
    defer_torch()
    from ppfl.status.show import show as show_result

    if launched_as().rank == 0:
        show_result(file)
    return 0
