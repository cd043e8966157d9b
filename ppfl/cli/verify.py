"""`ppfl verify`: whether files are as they were written."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("paths", metavar="FILE|FOLDER…", nargs=-1, required=True, type=click.Path(path_type=Path))
def verify(paths: tuple[Path, ...]) -> int:
    """Compare results, collections, parameters and checkpoints with the checksums that they carry.

    ok; does not match: damaged, or changed after it was written; has none: as files of version 3 of the results. Ends
    with 1 when something does not match or cannot be read.
    """
    from ppfl.results.verify import verify as verify_paths

    is_good = True
    for found in verify_paths(paths):
        click.echo(str(found))
        is_good = is_good and found.verdict in ("ok", "has none")
    return 0 if is_good else 1
