"""Data sets in the four files of MNIST: 60,000 and 10,000 images of 28 × 28, and their labels, ten classes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ppfl.catalogue import tiny_plain
from ppfl.catalogue.count_files import idx_images, idx_labels
from ppfl.catalogue.entry import DataSet, Download, Published, Source

if TYPE_CHECKING:
    from collections.abc import Mapping

_IMAGES, _LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"
_NUM_SAMPLES = {"train": 60_000, "t10k": 10_000}
_TINY = {_IMAGES.format("train"): (_LABELS.format("train"), 80), _IMAGES.format("t10k"): (_LABELS.format("t10k"), 20)}
_SECTION = (
    "{name: idx, train: {images: train-images-idx3-ubyte.gz, labels: train-labels-idx1-ubyte.gz}, "
    "test: {images: t10k-images-idx3-ubyte.gz, labels: t10k-labels-idx1-ubyte.gz}, "
    "partition: {name: iid, clients: 10}}"
)


def mnist_like(
    about: str, folder: str, files: Mapping[str, tuple[int, str]], source: Source, counted_in: Source
) -> DataSet:
    """Return the data set whose files, {name: (bytes, SHA-256)}, are in a folder of the net.

    source: of folder and files; counted_in: of the numbers of samples.
    """
    published: list[Published] = []
    for part, number in _NUM_SAMPLES.items():
        of_images: dict[str, int | str] = {"samples": number, "images": "uint8 28 × 28"}
        published.append(Published(_IMAGES.format(part), idx_images, of_images, counted_in))
        published.append(Published(_LABELS.format(part), idx_labels, {"samples": number, "classes": 10}, counted_in))
    return DataSet(
        about=about,
        downloads=tuple(
            Download(f"{folder}/{name}", source, f"sha256:{digits}", num_bytes)
            for name, (num_bytes, digits) in files.items()
        ),
        published=tuple(published),
        section=_SECTION,
        write_tiny=partial(tiny_plain.write_idx, files=_TINY, num_classes=10),
    )
