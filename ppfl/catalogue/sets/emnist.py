"""EMNIST, six splits of characters that belong to nobody."""

from __future__ import annotations

from pathlib import Path

from ppfl.catalogue import tiny_plain
from ppfl.catalogue.count_files import idx_images, idx_labels
from ppfl.catalogue.entry import DataSet, Download, Published, Source

_ADDRESS = Source(
    "tensorflow/datasets", "tensorflow_datasets/url_checksums/emnist.txt", "8be2f3338ed9ed006be8a68eb8661207f8bb3f14"
)
_COUNTS = Source(
    "tensorflow/datasets",
    "tensorflow_datasets/image_classification/mnist.py",
    "ed88f7189115b6fe182c87c5eb5ffa61c7d4037c",
)
_SPLITS: dict[str, tuple[dict[str, int], int]] = {
    "byclass": ({"train": 697_932, "test": 116_323}, 62),
    "bymerge": ({"train": 697_932, "test": 116_323}, 47),
    "balanced": ({"train": 112_800, "test": 18_800}, 47),
    "letters": ({"train": 0, "test": 0}, 26),
    "digits": ({"train": 240_000, "test": 40_000}, 10),
    "mnist": ({"train": 60_000, "test": 10_000}, 10),
}
"""Samples and classes of each split. Of letters sources say different numbers, of which none is taken."""


def _names(split: str, part: str) -> tuple[str, str]:
    start = f"emnist-{split}-{part}"
    return f"{start}-images-idx3-ubyte.gz", f"{start}-labels-idx1-ubyte.gz"


def _published(split: str, part: str) -> tuple[Published, Published]:
    sizes, num_classes = _SPLITS[split]
    images, labels = _names(split, part)
    size = {"samples": sizes[part]} if sizes[part] else {}
    of_labels = {**size, "classes": num_classes} if size else {}
    of_images: dict[str, int | str] = {**size, "images": "uint8 28 × 28"}
    return Published(images, idx_images, of_images, _COUNTS), Published(labels, idx_labels, of_labels, _COUNTS)


def _write_tiny(folder: Path) -> None:
    for split, (_, num_classes) in _SPLITS.items():
        files = {}
        for part, size in (("train", 2), ("test", 1)):
            images, labels = _names(split, part)
            files[images] = (labels, size * num_classes)
        tiny_plain.write_idx(folder, files, num_classes, first_class=1 if split == "letters" else 0)


_ALL = [(split, part) for split in _SPLITS for part in ("train", "test")]

DATA_SET = DataSet(
    about="characters, six splits: byclass, bymerge, balanced, letters, digits, mnist",
    downloads=(
        Download(
            "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip",
            _ADDRESS,
            "sha256:fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
            561_753_746,
            {f"gzip/{name}": name for split, part in _ALL for name in _names(split, part)},
        ),
    ),
    published=tuple(file for split, part in _ALL for file in _published(split, part)),
    # the images lie on their side, as the file of _COUNTS says
    section="{name: idx, transpose: true, "
    "train: {images: emnist-balanced-train-images-idx3-ubyte.gz, labels: emnist-balanced-train-labels-idx1-ubyte.gz}, "
    "test: {images: emnist-balanced-test-images-idx3-ubyte.gz, labels: emnist-balanced-test-labels-idx1-ubyte.gz}, "
    "partition: {name: iid, clients: 10}}",
    write_tiny=_write_tiny,
)
