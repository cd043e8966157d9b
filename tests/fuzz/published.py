"""Published files and archives with one wrong byte: counted, unpacked and converted by `ppfl data`.

`python -m tests.fuzz.published --flips 20000` does it at length.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from ppfl.catalogue.entry import Published
from ppfl.catalogue.index import find
from ppfl.catalogue.landmarks import convert
from ppfl.catalogue.told import Silent
from ppfl.catalogue.unpacking import unpack
from ppfl.core.errors import UserError
from tests.catalogue.archives import tar, zipped
from tests.fuzz.harness import Kind, main

SETS = ("femnist", "fed_cifar100", "shakespeare", "gldv2", "mnist", "cifar10", "cifar100", "a9a")
"""One of those whose files are of the same kinds."""
MEMBERS = {"all/first.bin": bytes(range(256)) * 20, "all/second.bin": b"second" * 500}
ARCHIVES = {"zip": zipped(MEMBERS)} | {mode: tar(MEMBERS, f"w:{mode}") for mode in ("bz2", "gz", "")}


def of(kind: str, make: Callable[[Path], Path], read: Callable[[Path], object]) -> Kind:
    """Read a file; where that is no error of the user's, what is read may be other than it was."""

    @cache
    def good() -> object:
        with tempfile.TemporaryDirectory() as folder:
            return read(make(Path(folder)))

    def check(path: Path) -> str:
        try:
            found = read(path)
        except UserError as error:
            return f"refused: {error}"
        return "equal" if found == good() else "other"

    return Kind(kind, make, check, ("refused", "equal", "other"))


def make_set(name: str, file: str, folder: Path) -> Path:
    find(name).write_tiny(folder)
    return folder / file


def make_archive(kind: str, folder: Path) -> Path:
    (folder / "archive").write_bytes(ARCHIVES[kind])
    return folder / "archive"


def unpacked(path: Path) -> dict[str, bytes]:
    out = path.parent / "out"
    out.mkdir()
    try:
        unpack(path, {name: name.rsplit("/", 1)[-1] for name in MEMBERS}, out, Silent())
        return {file.name: file.read_bytes() for file in out.iterdir()}
    finally:
        assert not [left for left in out.iterdir() if left.name.startswith(".")]
        shutil.rmtree(out)


def make_image(folder: Path) -> Path:
    find("gldv2").write_tiny(folder)
    return min((folder / "images").rglob("*.jpg"))


def converted(folder_of: Callable[[Path], Path], path: Path) -> bytes:
    folder = folder_of(path)
    out = folder / "converted.h5"
    try:
        convert(folder / "federated_train.csv", folder / "images", out, 8, Silent())
        return out.read_bytes()
    finally:
        assert not [left for left in folder.iterdir() if left.name.startswith(".")]
        out.unlink(missing_ok=True)


def files(name: str) -> list[Published]:
    """Return the first file of each kind that a data set has."""
    return list({file.count: file for file in reversed(find(name).published)}.values())


KINDS = (
    *(
        of(f"{name} {file.name}", partial(make_set, name, file.name), file.count)
        for name in SETS
        for file in files(name)
    ),
    *(of(f"archive {kind or 'plain'}", partial(make_archive, kind), unpacked) for kind in ARCHIVES),
    of("mapping", partial(make_set, "gldv2", "federated_train.csv"), partial(converted, lambda path: path.parent)),
    of("image", make_image, partial(converted, lambda path: path.parents[4])),
)

if __name__ == "__main__":
    main("tests.fuzz.published")
