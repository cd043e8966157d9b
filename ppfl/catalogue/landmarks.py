"""`ppfl data convert gldv2`: one file in the flat layout of a mapping and a folder of images.

A run reads that file alone, so that its digest covers every pixel.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import warnings
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain, whole_path
from ppfl.datasets._data_bytes import open_bytes
from ppfl.datasets._flatten import LABEL_TYPE, create_flat
from ppfl.interfaces.dataset import MAX_NUM_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ppfl.catalogue.told import Told

_COLUMNS = ("user_id", "image_id", "class")
_IMAGE_ID = re.compile(r"[0-9A-Za-z_-]{1,100}")
"""No dots and no slashes: ids become names of files."""
_FORMATS = ("JPEG", "PNG")
_DEEP = ("I", "F")
"""How modes of Pillow begin whose numbers have more than 8 bits: as bytes they would be cut off at 255."""


class _Image(NamedTuple):
    path: Path
    label: int


def convert(mapping: Path, images: Path, out: Path, pixels: int, told: Told) -> tuple[int, int]:
    """Write the images of all users, scaled to pixels × pixels, image by image; return how many clients and samples.

    The file is there as a whole or not at all. Raises UserError for tables that are no mapping, images that are
    missing or cannot be decoded, and where there is something at `out` or no room for it.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists; choose another name")
    of_clients = _read(mapping, images)
    num_samples = {name: len(of_client) for name, of_client in of_clients.items()}
    total = sum(num_samples.values())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free, wanted = shutil.disk_usage(out.parent).free, total * 3 * pixels**2
        if wanted > free:
            raise UserError(f"{out}: needs {wanted:,} bytes, and {out.parent} has room for {free:,}")
        with whole_path(out) as partial:
            at_samples, at_labels = create_flat(partial, num_samples, (pixels, pixels, 3), np.dtype(np.uint8))
            with partial.open("r+b") as file:
                file.seek(at_samples)
                for number, image in enumerate(_in_order(of_clients), start=1):
                    file.write(_decoded(image.path, pixels))
                    told.update(str(out), number, total, "images")
                file.seek(at_labels)
                file.write(np.array([image.label for image in _in_order(of_clients)], LABEL_TYPE).tobytes())
    except OSError as error:
        raise UserError(f"{out}: cannot write it: {os.strerror(error.errno) if error.errno else error}") from error
    return len(num_samples), total


def _in_order(of_clients: dict[str, list[_Image]]) -> Iterator[_Image]:
    for of_client in of_clients.values():
        yield from of_client


def _read(mapping: Path, images: Path) -> dict[str, list[_Image]]:
    """Return the images of each user, in the order of names, and of the table. Raises UserError."""
    if not images.is_dir():
        raise UserError(f"{images}: is no folder; it must hold the images of {mapping}")
    found: defaultdict[str, list[_Image]] = defaultdict(list)
    seen: set[str] = set()
    missing: list[Path] = []
    for line, (user, image, label) in _rows(mapping):
        where = f"{mapping}, line {line}"
        if not user or "\0" in user:
            raise UserError(f"{where}: user_id is {user!r}; it must have a character, and none that is zero")
        if not _IMAGE_ID.fullmatch(image):
            raise UserError(f"{where}: image_id is {image[:100]!r}; allowed are letters, digits, - and _")
        if not re.fullmatch(r"[0-9]{1,9}", label) or int(label) >= MAX_NUM_CLASSES:
            raise UserError(f"{where}: class is {label[:100]!r}; allowed are 0 to {MAX_NUM_CLASSES - 1}")
        if image in seen:
            raise UserError(f"{where}: has image_id {image} again; each image is one sample of one client")
        seen.add(image)
        path = _path(images, image)
        if path is None:
            missing.append(images / f"{image}.jpg")
        else:
            found[user].append(_Image(path, int(label)))
    if missing:
        raise UserError(
            f"{images}: lacks {len(missing):,} of the {len(seen):,} images of {mapping}, the first is {missing[0].name}"
        )
    if not found:
        raise UserError(f"{mapping}: has no line of an image")
    return {name: found[name] for name in sorted(found)}


def _rows(mapping: Path) -> Iterator[tuple[int, tuple[str, str, str]]]:
    try:
        with open_bytes(mapping, str(mapping)) as file:
            table = csv.DictReader(file.texts())
            columns = table.fieldnames or ()
            if not {*_COLUMNS} <= {*columns}:
                raise UserError(f"{mapping}: has the columns {', '.join(columns)}; it must have {', '.join(_COLUMNS)}")
            for row in table:
                user, image, label = (row[column] or "" for column in _COLUMNS)
                yield table.line_num, (user, image, label)
    except csv.Error as error:
        raise UserError(f"{mapping}: cannot be read as a table: {error}") from error


def _path(images: Path, image: str) -> Path | None:
    """Return where an image is: in the folder, or three folders deeper, where its archives have it."""
    name = f"{image}.jpg"
    # names of fewer letters than three have no folders of letters
    for path in (images / name, images.joinpath(*image[:3], name)):
        if path.exists():
            return path
    return None


def _decoded(path: Path, pixels: int) -> bytes:
    """Return (pixels, pixels, 3) bytes of an image, scaled as a whole, with linear weights over what a pixel covers."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise UserError("ppfl data convert needs the package Pillow: pip install 'ppfl[data]'") from error
    try:
        with open_plain(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd about an image and yet can be read
            # a small file can declare an image that no memory holds
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                if image.mode.startswith(_DEEP):
                    raise ValueError(f"it has more than 8 bits a colour (mode {image.mode})")
                return image.convert("RGB").resize((pixels, pixels), Image.Resampling.BILINEAR).tobytes()
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: is no image that can be read; allowed: {' and '.join(_FORMATS)}") from error
    # what Pillow raises for damaged files
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        EOFError,
        MemoryError,
        Image.DecompressionBombError,
        Warning,
    ) as error:
        raise UserError(f"{path}: is no image that can be read: {error or type(error).__name__}") from error
