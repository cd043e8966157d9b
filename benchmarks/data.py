"""Data of the benchmarks, written as federated HDF5 files to a temporary folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).parent.parent
NUM_FEMNIST_CLIENTS, NUM_WRITERS = 50, 3400
NUM_FEMNIST_CLASSES = 62
_FEWEST_OF_STUDY = 100
MNIST20_CLIENTS = 20
FFGG_SAMPLES = 256
"""Of each of the 20 clients of mnist20: 5,120 in all."""
_LOG_NORMAL = (5.15, 0.4)
"""μ and σ of the sizes of FEMNIST's writers when the list is not there: median 172, mean 187."""


@dataclass(frozen=True)
class WrittenData:
    """A training file of a benchmark, and what it is."""

    path: Path
    source: str
    sizes: tuple[int, ...]
    """Samples of every client."""
    side: int
    """Height and width of an image."""
    num_classes: int


def data_folder() -> Path:
    """Return the folder of mnist20_train.h5 and emnist_client_sizes_train.csv; it may not exist."""
    return Path(os.environ.get("PPFL_BENCHMARK_DATA", ROOT.parent / "shared" / "data"))


def mnist20(folder: Path, samples: int | None) -> WrittenData:
    """Write the first samples of each client of mnist20, or all; without that file, images made up in its shape."""
    path = data_folder() / "mnist20_train.h5"
    if not path.exists():
        sizes = [samples or FFGG_SAMPLES] * MNIST20_CLIENTS
        written = _synthetic(folder / "mnist20.h5", sizes, 28, 10)
        return WrittenData(written, f"synthetic, in the shape of mnist20 ({path} is not there)", tuple(sizes), 28, 10)
    with h5py.File(path) as file:
        clients = [(group["pixels"][:samples], group["label"][:samples]) for group in file["examples"].values()]
    _write(folder / "mnist20.h5", clients)
    what = "all samples" if samples is None else f"the first {samples} samples of each client"
    sizes = [len(y) for _, y in clients]
    return WrittenData(folder / "mnist20.h5", f"mnist20, {what}", tuple(sizes), 28, 10)


def femnist_shaped(folder: Path) -> WrittenData:
    """Write 50 clients with 28×28 images made up, 62 classes, as many as writers of federated EMNIST have."""
    sizes, source = _femnist_sizes()
    path = _synthetic(folder / "femnist.h5", sizes, 28, NUM_FEMNIST_CLASSES)
    return WrittenData(path, f"synthetic images, {source}", tuple(sizes), 28, NUM_FEMNIST_CLASSES)


def study_clients(folder: Path, num_clients: int, side: int) -> WrittenData:
    """Write as many clients as the study of Pillutla et al. has, by its rule (100 training samples or more), with
    images made up, in the flat layout; sizes are evenly spaced in the sorted list of those that obey it."""
    # imported here: the plain way has nothing of ppfl in its process
    from ppfl.datasets._flatten import flatten

    known, source = _known_sizes(_FEWEST_OF_STUDY)
    chosen = np.linspace(0, len(known) - 1, num_clients).round().astype(int)
    sizes = [known[index] for index in chosen]
    grouped, path = folder / "study-grouped.h5", folder / f"study-{num_clients}.h5"
    _synthetic(grouped, sizes, side, NUM_FEMNIST_CLASSES)
    flatten(grouped, path)
    grouped.unlink()
    return WrittenData(path, f"synthetic images, flat, {source}", tuple(sizes), side, NUM_FEMNIST_CLASSES)


def sentences(folder: Path, num_clients: int, texts: int, num_words: int, length: int) -> tuple[Path, Path]:
    """Write clients with sentences of made-up words, more of the first ones, and how often each word occurs."""
    draw, words = np.random.default_rng(0), np.array([f"w{number}" for number in range(num_words)])
    shares = 1 / np.arange(2, num_words + 2)
    path, counts = folder / "sentences.h5", folder / "counts.csv"
    with h5py.File(path, "w") as file:
        for client in range(num_clients):
            ids = draw.choice(num_words, (texts, length + 1), p=shares / shares.sum())
            lines = [" ".join(words[row]) for row in ids]
            file.create_dataset(f"examples/c{client:06d}/tokens", data=lines, dtype=h5py.string_dtype())
    counts.write_text("".join(f"{word},{num_words - number}\n" for number, word in enumerate(words)), encoding="utf-8")
    return path, counts


def tiny_images(folder: Path, num_clients: int = 4) -> WrittenData:
    """Write a few clients with small images, to try a benchmark out."""
    sizes = [18 + 5 * client for client in range(num_clients)]
    path = _synthetic(folder / "tiny.h5", sizes, 12, 5)
    return WrittenData(path, "synthetic, tiny", tuple(sizes), 12, 5)


def equal_clients(folder: Path, num_clients: int, samples: int, side: int, num_classes: int) -> WrittenData:
    """Write clients of equal size with images made up."""
    path = _synthetic(folder / f"equal-{num_clients}.h5", [samples] * num_clients, side, num_classes)
    return WrittenData(path, "synthetic", (samples,) * num_clients, side, num_classes)


def flat_clients(path: Path, num_clients: int, samples: int, features: int, num_classes: int) -> Path:
    """Write clients of equal size in the flat layout, noise around one point a class, in little memory."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((num_classes, features), dtype=np.float32)
    total, block = num_clients * samples, 1 << 18
    with h5py.File(path, "w") as file:
        x = file.create_dataset("samples", (total, features), np.float32)
        y = file.create_dataset("label", (total,), np.int64)
        for first in range(0, total, block):
            labels = draw.integers(num_classes, size=min(block, total - first))
            noise = draw.standard_normal((len(labels), features), dtype=np.float32)
            x[first : first + len(labels)] = centres[labels] + noise
            y[first : first + len(labels)] = labels
        file["offsets"] = np.arange(num_clients + 1) * samples
        file["client"] = np.array([f"c{number:07d}".encode() for number in range(num_clients)])
    return path


def _femnist_sizes() -> tuple[list[int], str]:
    known, source = _known_sizes(1)
    chosen = np.linspace(0, len(known) - 1, NUM_FEMNIST_CLIENTS).round().astype(int)
    return [known[index] for index in chosen], source


def writers() -> tuple[dict[str, int], str]:
    """Return how many samples each writer of federated EMNIST has to train on, by name, and where that comes from."""
    path = data_folder() / "emnist_client_sizes_train.csv"
    if path.exists():
        with path.open() as lines:
            return {
                name: int(size) for name, size in list(csv.reader(lines))[1:]
            }, "sizes of federated EMNIST's writers"
    drawn = np.random.default_rng(0).lognormal(*_LOG_NORMAL, NUM_WRITERS)
    sizes = {f"f{number:04d}": max(1, int(size)) for number, size in enumerate(drawn)}
    return sizes, f"log-normal sizes, μ and σ {_LOG_NORMAL}"


def _known_sizes(fewest: int) -> tuple[list[int], str]:
    """Return sizes of writers that have so many samples, ascending, and where they come from."""
    path = data_folder() / "emnist_client_sizes_train.csv"
    if path.exists():
        with path.open() as lines:
            known = sorted(int(size) for _, size in list(csv.reader(lines))[1:])
        return [
            size for size in known if size >= fewest
        ], "sizes evenly spaced in the sorted list of federated EMNIST's writers"
    drawn = np.random.default_rng(0).lognormal(*_LOG_NORMAL, NUM_FEMNIST_CLIENTS)
    sizes = sorted(max(fewest, int(size)) for size in drawn)
    return sizes, f"log-normal sizes, μ and σ {_LOG_NORMAL}"


def _synthetic(path: Path, sizes: Sequence[int], side: int, num_classes: int) -> Path:
    """Write noise around one image a class, so that there is something to learn; every class has a sample."""
    draw = np.random.default_rng(0)
    centres = draw.uniform(0, 255, (num_classes, side, side)).astype(np.float32)

    def client(number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        y = (
            draw.integers(num_classes, size=size) if number else np.arange(num_classes - size, num_classes)
        ) % num_classes
        noise = draw.standard_normal((size, side, side), dtype=np.float32)
        return np.clip(0.5 * centres[y] + 64 + 32 * noise, 0, 255).astype(np.uint8), y

    _write(path, (client(number, size) for number, size in enumerate(sizes)))
    return path


def _write(path: Path, clients: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        examples = file.create_group("examples")
        for number, (x, y) in enumerate(clients):
            group = examples.create_group(f"c{number:06d}")
            group["pixels"], group["label"] = x, y.astype(np.int64)
