"""Made-up files of centralized sets and of photographs: tiny, the same every time, with something to learn."""

from __future__ import annotations

import csv
import gzip
import struct
from pathlib import Path

import numpy as np

from ppfl.catalogue.landmarks import convert
from ppfl.catalogue.told import Silent
from ppfl.core.errors import UserError

_LANDMARK_CLASSES = 2028
_FEATURES_A_CLASS = 3


def write_idx(folder: Path, files: dict[str, tuple[str, int]], num_classes: int, first_class: int = 0) -> None:
    """Write images and labels in gzip. files: name of the images -> name of the labels, number of samples."""
    draw = np.random.default_rng(6)
    signs = draw.random((num_classes, 7, 7)) < 0.35
    for images, (labels, size) in files.items():
        chosen = np.arange(size) % num_classes
        drawn = np.kron(signs[chosen], np.ones((4, 4))) * 255
        pixels = np.clip(drawn + draw.normal(0, 20, drawn.shape), 0, 255).astype(np.uint8)
        _gzip(folder / images, struct.pack(">4B3I", 0, 0, 8, 3, size, 28, 28) + pixels.tobytes())
        _gzip(
            folder / labels, struct.pack(">4BI", 0, 0, 8, 1, size) + (first_class + chosen).astype(np.uint8).tobytes()
        )


def _gzip(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, mtime=0))  # without the time: the same bytes whenever


def write_cifar(folder: Path, files: dict[str, int], num_classes: int, num_coarse: int = 0) -> None:
    """Write records of labels, the coarse one first where there is one, and 32 × 32 pixels, all red ones first."""
    draw = np.random.default_rng(7)
    colours = draw.integers(60, 196, (num_classes, 3, 4, 4))
    coarse = np.arange(num_classes) % max(num_coarse, 1)
    for name, size in files.items():
        chosen = draw.permutation(np.arange(size) % num_classes)
        drawn = np.kron(colours[chosen], np.ones((1, 1, 8, 8)))
        pixels = np.clip(drawn + draw.normal(0, 20, drawn.shape), 0, 255).astype(np.uint8).reshape(size, -1)
        labels = [coarse[chosen], chosen] if num_coarse else [chosen]
        (folder / name).write_bytes(np.column_stack([*labels, pixels]).astype(np.uint8).tobytes())


def write_libsvm(folder: Path, files: dict[str, int], num_features: int) -> None:
    """Write lines of a label, -1 or +1, and binary features, some of which tell it."""
    draw = np.random.default_rng(8)
    for name, size in files.items():
        lines: list[str] = []
        for label in draw.integers(0, 2, size).tolist():
            told = 1 + label * _FEATURES_A_CLASS + draw.choice(_FEATURES_A_CLASS, 2, replace=False)
            others = draw.choice(np.arange(2 * _FEATURES_A_CLASS + 1, num_features + 1), 6, replace=False)
            # the last one in the first line, so that there are as many as in the published file
            present = sorted({*told.tolist(), *others.tolist(), *([] if lines else [num_features])})
            lines.append(f"{2 * label - 1:+d} " + " ".join(f"{feature}:1" for feature in present) + "\n")
        (folder / name).write_text("".join(lines), encoding="ascii")


def write_landmarks(
    folder: Path, mapping: str, out: str, num_clients: int = 4, num_classes: int = _LANDMARK_CLASSES, pixels: int = 32
) -> Path:
    """Write a mapping user_id, image_id, class, folders of JPEG images, and the one file that `ppfl data convert` makes
    of them; of a few classes and the last one, so that outputs are as many as in the published set."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("photographs need the package Pillow: pip install 'ppfl[data]'") from error
    draw = np.random.default_rng(1)
    kept = np.array([0, 1, 2, num_classes - 1])
    colours = draw.integers(60, 196, (len(kept), 4, 4, 3))
    with (folder / mapping).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["user_id", "image_id", "class"])
        for client in range(num_clients):
            for number in range(8 + client):
                which = (number + client) % len(kept)
                name = f"{draw.integers(0, 1 << 63):016x}"
                height, width = draw.integers(32, 64, 2)
                shown = np.array(
                    Image.fromarray(colours[which].astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
                )
                noisy = np.clip(shown + draw.normal(5 * client, 20, shown.shape), 0, 255).astype(np.uint8)
                path = folder / "images" / name[0] / name[1] / name[2] / f"{name}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(noisy).save(path, quality=90)
                table.writerow([client, name, kept[which]])
    convert(folder / mapping, folder / "images", folder / out, pixels, Silent())
    return folder / out
