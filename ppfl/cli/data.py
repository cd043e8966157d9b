"""`ppfl data`: files of samples."""

from __future__ import annotations

from pathlib import Path

import click

from ppfl.config.deferred import defer_torch


@click.group()
def data() -> None:
    """Convert files of samples."""


@data.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
def flatten(source: Path, out: Path) -> int:
    """Write a file with a group a client anew in the flat layout, which opens fast however many clients it has.

    IN has examples/<client>/{pixels,label}, OUT is a new file with the samples of all clients in a few arrays.
    Results of both are the same; their digests are not, since data count by the content of their file.
    configs/README.md describes both layouts.
    """
    defer_torch()
    from ppfl.datasets._flatten import flatten as flatten_file

    num_clients, num_samples = flatten_file(source, out)
    click.echo(f"{num_clients} clients, {num_samples} samples: {out}")
    return 0
