"""Made-up files with the schema of the public federated data sets: tiny, the same every time, with something to learn.

What single clients do differs, as in the public ones: each writes its own hand, or prefers words of its own.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import h5py
import numpy as np

_FEMNIST_CLASSES, _GLDV2_CLASSES = 62, 2028
_WORDS = (
    "the", "a", "i", "to", "is", "of", "and", "how", "in", "code", "it", "with", "this", "my", "list", "for", "do",
    "use", "an", "error", "what", "file", "from", "class", "get", "data",
)  # fmt: skip


def write_femnist(folder: Path, num_clients: int = 6, num_classes: int = _FEMNIST_CLASSES) -> tuple[Path, Path]:
    """Write femnist_train.h5 and femnist_test.h5: pixels (S, 28, 28) float32, 1.0 the white of paper and 0.0 ink; label
    (S,) int32, of a few classes and the last one, so that outputs are as many as in the public file."""
    draw = np.random.default_rng(0)
    signs = draw.random((8, 7, 7)) < 0.35
    kept = np.array([0, 1, 2, 10, 11, 36, 37, num_classes - 1]) % num_classes
    paths = folder / "femnist_train.h5", folder / "femnist_test.h5"
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


def write_gldv2(folder: Path, num_clients: int = 4, pixels: int = 32, num_classes: int = _GLDV2_CLASSES) -> Path:
    """Write gldv2.h5: image (S, pixels, pixels, 3) uint8, label (S,) int64, of a few classes and the last one."""
    draw = np.random.default_rng(1)
    kept = np.array([0, 1, 2, num_classes - 1])
    colours = draw.integers(60, 196, (len(kept), 4, 4, 3))
    path = folder / "gldv2.h5"
    with h5py.File(path, "w") as file:
        for client in range(num_clients):
            chosen = (np.arange(8 + client) + client) % len(kept)
            image = np.kron(colours[chosen], np.ones((1, pixels // 4, pixels // 4, 1)))
            image = np.clip(image + draw.normal(5 * client, 20, image.shape), 0, 255).astype(np.uint8)
            group = file.create_group(f"examples/{client}")
            group["image"], group["label"] = image, kept[chosen].astype(np.int64)
    return path


def write_stackoverflow(folder: Path, num_clients: int = 5) -> tuple[Path, Path, Path]:
    """Write stackoverflow_train.h5 and stackoverflow_test.h5, with tokens (S,), the words of a sentence with blanks
    between them, and stackoverflow.word_count, lines `word count` from the most frequent on."""
    draw = np.random.default_rng(2)
    follows = draw.permutation(len(_WORDS))
    paths = folder / "stackoverflow_train.h5", folder / "stackoverflow_test.h5"
    counts: Counter[str] = Counter(dict.fromkeys(_WORDS, 0))
    for path, size in zip(paths, (20, 6), strict=True):
        with h5py.File(path, "w") as file:
            for client in range(num_clients):
                texts = [_sentence(draw, follows, client) for _ in range(size + client)]
                file.create_dataset(f"examples/{client:08d}/tokens", data=texts, dtype=h5py.string_dtype())
                if path is paths[0]:
                    counts.update(word for text in texts for word in text.split(" "))
    words = folder / "stackoverflow.word_count"
    words.write_text("".join(f"{word} {count}\n" for word, count in counts.most_common()))
    return *paths, words


def _sentence(draw: np.random.Generator, follows: np.ndarray, client: int) -> str:
    """Three words of four are the one that follows in everybody's language, or a favourite of the client."""
    word, words = int(draw.integers(len(_WORDS))), []
    for _ in range(int(draw.integers(3, 26))):
        words.append(_WORDS[word])
        chance = draw.random()
        word = int(follows[word]) if chance < 0.6 else client if chance < 0.75 else int(draw.integers(len(_WORDS)))
    return " ".join(words)
