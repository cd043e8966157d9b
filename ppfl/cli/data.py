"""`ppfl data`: public data sets, and files of samples."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ppfl.cli.transfer import Transfer
from ppfl.config.deferred import defer_torch

if TYPE_CHECKING:
    from types import FrameType

_folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where data sets are, each in a folder of its name. Default: PPFL_DATA, or else the cache of the user.",
)
_name_argument = click.argument("name", metavar="NAME")


@click.group()
@click.pass_context
def data(context: click.Context) -> None:
    """Fetch, check, make up and convert data sets.

    docs/datasets.md tells what there is.
    """
    # the end of a batch job, or of a terminal, is to leave as little behind as a Ctrl-C
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)
            context.call_on_close(lambda number=number: signal.signal(number, signal.SIG_DFL))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@data.command("list")
@_folder_option
def list_sets(folder: Path | None) -> int:
    """List the data sets of the catalogue, and which of them are there."""
    defer_torch()
    from ppfl.catalogue.index import default_folder, find, names

    place = folder or default_folder()
    for name in names():
        data_set = find(name)
        files = [file for download in data_set.downloads for file in download.files]
        number = sum((place / name / file).exists() for file in files)
        state = "" if not number else " (there)" if number == len(files) else f" ({number} of {len(files)} files there)"
        click.echo(f"{name:<15} {data_set.about}{state}")
    return 0


@data.command()
@_name_argument
@_folder_option
@click.option(
    "--from",
    "origin",
    metavar="ADDRESS|FOLDER",
    help="Another place of the published files. Hashes must fit all the same.",
)
def fetch(name: str, folder: Path | None, origin: str | None) -> int:
    """Bring the published files of a data set into FOLDER/NAME, whole, checked and unpacked.

    A download that breaks off goes on where it was. Proxies are those of HTTPS_PROXY and HTTP_PROXY. Files that are
    there are compared with their hashes, which stand in SHA256SUMS beside them.
    """
    defer_torch()
    from ppfl.catalogue.fetch import fetch as fetch_set
    from ppfl.catalogue.index import default_folder
    from ppfl.jobs.leftovers import clear_folder

    place = folder or default_folder()
    clear_folder(place / name)
    with Transfer() as told:
        data_set = fetch_set(name, place, origin, told)
    click.echo(f"{name}: {place / name}")
    if data_set.afterwards:
        click.echo(f"{name}: {data_set.afterwards}")
    click.echo(f"{name}: PPFL_DATA={place / name}, dataset: {data_set.section}")
    return 0


@data.command()
@_name_argument
@_folder_option
def check(name: str, folder: Path | None) -> int:
    """Compare clients, samples, classes and fields of a data set's files with what is published about them.

    A line a fact: ok; deviation; missing, of files; not published, what nothing is known about. Sources stand below.
    Ends with 1 when something deviates or is missing.
    """
    defer_torch()
    from ppfl.catalogue.check import check as check_set
    from ppfl.catalogue.index import default_folder

    sources: list[str] = []
    is_good = True
    for finding in check_set(name, folder or default_folder()):
        reference = ""
        if finding.source is not None:
            if str(finding.source) not in sources:
                sources.append(str(finding.source))
            reference = f" [{sources.index(str(finding.source)) + 1}]"
        click.echo(f"{finding.verdict:<14} {finding.text}{reference}")
        is_good = is_good and finding.verdict in ("ok", "not published")
    for number, source in enumerate(sources, start=1):
        click.echo(f"[{number}] {source}")
    return 0 if is_good else 1


@data.command("make-tiny")
@_name_argument
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path, file_okay=False))
def make_tiny(name: str, out: Path) -> int:
    """Write small made-up files with the names and fields of a data set into OUT/NAME, to try configurations with."""
    defer_torch()
    from ppfl.catalogue.tiny import make_tiny as write

    for path in write(name, out):
        click.echo(path)
    return 0


@data.group()
def convert() -> None:
    """Make one file of a data set that is published in many."""


@convert.command("gldv2")
@click.argument("mapping", metavar="MAPPING", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGES", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--pixels", type=click.IntRange(8, 4096), default=224, show_default=True, help="Height and width that images get."
)
def convert_gldv2(mapping: Path, images: Path, out: Path, pixels: int) -> int:
    """Write one file in the flat layout of the images of Google Landmarks v2.

    MAPPING is a table user_id,image_id,class, IMAGES the folder of <image_id>.jpg, or of the folders in which the
    published archives have them; OUT a new file, which is all that a run reads. A user is a client.
    """
    defer_torch()
    from ppfl.catalogue.landmarks import convert as convert_images
    from ppfl.jobs.leftovers import clear_folder

    clear_folder(out.parent)
    with Transfer() as told:
        num_clients, num_samples = convert_images(mapping, images, out, pixels, told)
    click.echo(f"{num_clients} clients, {num_samples} samples: {out}")
    return 0


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
    from ppfl.jobs.leftovers import clear_folder

    clear_folder(out.parent)
    num_clients, num_samples = flatten_file(source, out)
    click.echo(f"{num_clients} clients, {num_samples} samples: {out}")
    return 0
