"""Made-up federated files with the schema of the published ones: tiny, the same every time, with something to learn.

What single clients do differs, as in the published ones: each writes its own hand, or prefers words of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

_FEMNIST_CLASSES, _CIFAR_CLASSES, _COARSE_CLASSES = 62, 100, 20
_WORDS = (
    "the", "a", "i", "to", "is", "of", "and", "how", "in", "code", "it", "with", "this", "my", "list", "for", "do",
    "use", "an", "error", "what", "file", "from", "class", "get", "data",
)  # fmt: skip
_TAGS = ("python", "c++", "html", "regex")


def write_femnist(folder: Path, num_clients: int = 6, num_classes: int = _FEMNIST_CLASSES) -> tuple[Path, Path]:
    """Write femnist_train.h5 and femnist_test.h5: pixels (S, 28, 28) float32, 1.0 the white of paper and 0.0 ink; label
    (S,) int32, of a few classes and the last one, so that outputs are as many as in the published file."""
    draw = np.random.default_rng(0)
    signs = draw.random((8, 7, 7)) < 0.35
    kept = np.array([0, 1, 2, 10, 11, 36, 37, num_classes - 1]) % num_classes
    name = "femnist" if num_classes == _FEMNIST_CLASSES else "femnist_digits"
    paths = folder / f"{name}_train.h5", folder / f"{name}_test.h5"
    hands = [draw.uniform(0.6, 1.0) for _ in range(num_clients)]
    for path, size in zip(paths, (12, 4), strict=True):
        with h5py.File(path, "w") as file:
            for client, ink in enumerate(hands):
                chosen = np.arange(size + client % 3) % len(kept)
                drawn = np.kron(signs[chosen], np.ones((4, 4))) * ink
                pixels = np.clip(1.0 - drawn + draw.normal(0, 0.05, drawn.shape), 0, 1).astype(np.float32)
                group = file.create_group(f"examples/f{client:04d}_{client + 10:02d}")
                group["pixels"], group["label"] = pixels, kept[chosen].astype(np.int32)
    return paths


def write_fed_cifar100(folder: Path, num_clients: int = 5) -> tuple[Path, Path]:
    """Write fed_cifar100_train.h5 and fed_cifar100_test.h5, whose clients are others: image (S, 32, 32, 3) uint8, label
    and coarse_label (S,) int64."""
    draw = np.random.default_rng(3)
    kept = np.array([0, 1, 2, 50, _CIFAR_CLASSES - 1])
    coarse = draw.integers(0, _COARSE_CLASSES, len(kept))
    colours = draw.integers(60, 196, (len(kept), 4, 4, 3))
    paths = folder / "fed_cifar100_train.h5", folder / "fed_cifar100_test.h5"
    for path, size in zip(paths, (10, 5), strict=True):
        with h5py.File(path, "w") as file:
            for client in range(num_clients):
                chosen = (np.arange(size) + client) % len(kept)
                group = file.create_group(f"examples/{client}")
                group["image"] = _noisy(colours[chosen], 32, draw)
                group["label"], group["coarse_label"] = kept[chosen].astype(np.int64), coarse[chosen].astype(np.int64)
    return paths


def _noisy(colours: np.ndarray, pixels: int, draw: np.random.Generator) -> np.ndarray:
    """Return images (S, pixels, pixels, 3) uint8 of colours (S, 4, 4, 3)."""
    image = np.kron(colours, np.ones((1, pixels // 4, pixels // 4, 1)))
    return np.clip(image + draw.normal(0, 20, image.shape), 0, 255).astype(np.uint8)


def write_shakespeare(folder: Path) -> tuple[Path, Path]:
    """Write shakespeare_train.h5 and shakespeare_test.h5: snippets (S,), lines that a character says."""
    draw = np.random.default_rng(4)
    follows = draw.permutation(len(_WORDS))
    names = (
        "THE_TRAGEDY_OF_MAKE_BELIEVE_FIRST_LORD",
        "THE_TRAGEDY_OF_MAKE_BELIEVE_GHOST",
        "TWO_FILES_PAGE",
        "TWO_FILES_CLERK",
    )
    paths = folder / "shakespeare_train.h5", folder / "shakespeare_test.h5"
    for path, size in zip(paths, (8, 2), strict=True):
        with h5py.File(path, "w") as file:
            for client, name in enumerate(names):
                texts = [_sentence(draw, follows, client).capitalize() + ".\n" for _ in range(size + client)]
                _texts(file, f"examples/{name}/snippets", texts)
    return paths


def write_stackoverflow(folder: Path, num_clients: int = 5) -> tuple[Path, Path, Path, Path]:
    """Write stackoverflow_train.h5, stackoverflow_held_out.h5 and stackoverflow_test.h5, with tokens (S,), the words of
    a sentence with blanks between them, and what is known about each; and stackoverflow.word_count, lines `word count`
    from the most frequent on."""
    draw, others = np.random.default_rng(2), np.random.default_rng(5)
    follows = draw.permutation(len(_WORDS))
    train, test, held_out = (folder / f"stackoverflow_{part}.h5" for part in ("train", "test", "held_out"))
    counts: Counter[str] = Counter(dict.fromkeys(_WORDS, 0))
    for path, size, draw_of in ((train, 20, draw), (test, 6, draw), (held_out, 4, others)):
        with h5py.File(path, "w") as file:
            for client in range(num_clients):
                texts = [_sentence(draw_of, follows, client) for _ in range(size + client)]
                # as the published files: users whose number ends with 0 are held out
                name = f"examples/{10 * client if path == held_out else client + 1:08d}"
                _texts(file, f"{name}/tokens", texts)
                _about(file, name, len(texts), others)
                if path == train:
                    counts.update(word for text in texts for word in text.split(" "))
    words = folder / "stackoverflow.word_count"
    words.write_text("".join(f"{word} {count}\n" for word, count in counts.most_common()), encoding="utf-8")
    return train, test, held_out, words


def _about(file: h5py.File, name: str, size: int, draw: np.random.Generator) -> None:
    months = draw.integers(1, 13, size)
    _texts(file, f"{name}/creation_date", [f"2017-{month:02d}-01 00:00:00 UTC" for month in months])
    _texts(file, f"{name}/title", [f"how to {_WORDS[word]}" for word in draw.integers(0, len(_WORDS), size)])
    _texts(file, f"{name}/tags", ["|".join(draw.choice(_TAGS, 2, replace=False)) for _ in range(size)])
    _texts(file, f"{name}/type", [("question", "answer")[kind] for kind in draw.integers(0, 2, size)])
    file[f"{name}/score"] = draw.integers(-3, 50, size).astype(np.int64)


def _texts(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    file.create_dataset(name, data=texts, dtype=h5py.string_dtype())


def _sentence(draw: np.random.Generator, follows: np.ndarray, client: int) -> str:
    """Three words of four are the one that follows in everybody's language, or a favourite of the client."""
    word, words = int(draw.integers(len(_WORDS))), []
    for _ in range(int(draw.integers(3, 26))):
        words.append(_WORDS[word])
        chance = draw.random()
        word = int(follows[word]) if chance < 0.6 else client if chance < 0.75 else int(draw.integers(len(_WORDS)))
    return " ".join(words)
