"""Counts of IDX, CIFAR's binary version, LIBSVM and CSV files, read in pieces, whatever they declare.

Not by the readers of data sets, of which it is an independent check.
"""

from __future__ import annotations

import csv
import gzip
import io
import struct
import zlib
from collections import Counter
from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from ppfl.catalogue.counted import Counted
from ppfl.core.errors import UserError
from ppfl.core.files import open_plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIECE_BYTES = 1 << 22
_MAX_LINE_BYTES = 1 << 20
_IDX_UINT8 = 0x08
_CIFAR_PIXELS = 3072


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, uncompressed where it is of gzip. Turns whatever is wrong with it into a UserError."""
    try:
        with open_plain(path) as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            if not packed:
                yield plain
                return
            with gzip.open(plain) as unpacked:
                yield cast("BinaryIO", unpacked)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def idx_images(path: Path) -> Counted:
    """Count images (S, height, width) of unsigned bytes."""
    with _opened(path) as file:
        num_samples, *shape = _idx_head(file, path, 3)
        _all_bytes(file, path, num_samples * shape[0] * shape[1])
    return Counted({"samples": num_samples, "images": f"uint8 {shape[0]} × {shape[1]}"})


def idx_labels(path: Path) -> Counted:
    """Count labels (S,) of unsigned bytes, and how many different ones there are."""
    with _opened(path) as file:
        (num_samples,) = _idx_head(file, path, 1)
        seen = _all_bytes(file, path, num_samples)
    return Counted({"samples": num_samples, "classes": int((seen > 0).sum())})


def _idx_head(file: BinaryIO, path: Path, num_axes: int) -> tuple[int, ...]:
    """Read zero, zero, the type, the number of axes, and their lengths, as big-endian numbers of four bytes."""
    head = file.read(4 + 4 * num_axes)
    if len(head) < 4 + 4 * num_axes or head[:4] != bytes([0, 0, _IDX_UINT8, num_axes]):
        raise UserError(f"{path}: is no IDX file of unsigned bytes with {num_axes} axes; it begins with {head[:4]!r}")
    return struct.unpack(f">{num_axes}I", head[4:])


def _all_bytes(file: BinaryIO, path: Path, num_bytes: int) -> np.ndarray:
    """Return how often each byte stands in what is left of a file, (256,). Raises UserError for another length."""
    seen, left = np.zeros(256, np.int64), num_bytes
    while piece := file.read(min(_PIECE_BYTES, left + 1)):
        left -= len(piece)
        if left < 0:
            break
        seen += np.bincount(np.frombuffer(piece, np.uint8), minlength=256)
    if left:
        how = f"ends {left:,} bytes before" if left > 0 else "goes on after"
        raise UserError(f"{path}: {how} the {num_bytes:,} bytes that its head declares")
    return seen


def cifar10(path: Path) -> Counted:
    """Count records of a label and 32 × 32 pixels in three colours."""
    return _cifar(path, ("classes",))


def cifar100(path: Path) -> Counted:
    """Count records of a coarse label, a label and 32 × 32 pixels in three colours."""
    return _cifar(path, ("coarse classes", "classes"))


def _cifar(path: Path, labels: tuple[str, ...]) -> Counted:
    record_bytes = len(labels) + _CIFAR_PIXELS
    seen: list[set[int]] = [set() for _ in labels]
    num_samples = 0
    with _opened(path) as file:
        while piece := file.read(1000 * record_bytes):
            if len(piece) % record_bytes:
                raise UserError(f"{path}: is no whole number of records of {record_bytes:,} bytes")
            rows = np.frombuffer(piece, np.uint8).reshape(-1, record_bytes)
            num_samples += len(rows)
            for column, classes in enumerate(seen):
                classes.update(np.unique(rows[:, column]).tolist())
    return Counted({"samples": num_samples} | dict(zip(labels, map(len, seen), strict=True)))


def libsvm(path: Path) -> Counted:
    """Count lines `label index:value …`, features by the largest index, and different labels."""
    num_samples, num_features = 0, 0
    classes: set[float] = set()
    with _opened(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), start=1):
            if len(line) == _MAX_LINE_BYTES:
                raise UserError(f"{path}, line {number}: is longer than {_MAX_LINE_BYTES:,} bytes")
            words = line.partition(b"#")[0].split()
            if not words:
                continue
            try:
                classes.add(float(words[0]))
                num_features = max([num_features, *(int(word.partition(b":")[0]) for word in words[1:])])
            except ValueError as error:
                raise UserError(f"{path}, line {number}: is {line[:60]!r}; allowed is label index:value …") from error
            num_samples += 1
    return Counted({"samples": num_samples, "features": num_features, "classes": len(classes)})


def images_of_users(path: Path) -> Counted:
    """Count the lines user_id, image_id, class of a mapping of GLDv2."""
    clients: Counter[str] = Counter()
    classes: set[str] = set()
    with _opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        try:
            for user, _, label in (itemgetter("user_id", "image_id", "class")(row) for row in csv.DictReader(text)):
                clients[user] += 1
                classes.add(label)
        except (KeyError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: is no table in UTF-8 with the columns user_id, image_id and class") from error
    return Counted({"clients": len(clients), "samples": clients.total(), "classes": len(classes)}, sizes=dict(clients))


def anything(path: Path) -> Counted:
    """Count nothing, of a file about which nothing is published, but see whether it can be read."""
    with _opened(path) as file:
        file.read(1)
    return Counted({})
