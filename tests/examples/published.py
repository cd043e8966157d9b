"""Made-up files with the schema of the public federated data sets: few clients, few samples, small images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import h5py
import numpy as np

CLIENTS = 6


def write(folder: Path) -> None:
    """Write FEMNIST and StackOverflow as TensorFlow Federated has them, and GLDv2 in the same layout."""
    draw = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for part, size in (("train", 10), ("test", 4)):
        with h5py.File(folder / f"femnist_{part}.h5", "w") as file:
            for client in range(CLIENTS):
                group = file.create_group(f"examples/f{client:04}")
                group["pixels"] = draw.random((size + client, 28, 28), dtype=np.float32)
                group["label"] = draw.integers(0, 62, size + client)
        words = [f"word{number}" for number in range(50)]
        with h5py.File(folder / f"stackoverflow_{part}.h5", "w") as file:
            for client in range(CLIENTS):
                texts = [" ".join(draw.choice(words, draw.integers(3, 25))) for _ in range(size + client)]
                file[f"examples/{client:08}/tokens"] = np.array(texts, dtype=object)
                if part == "train":
                    counts.update(word for text in texts for word in text.split(" "))
    lines = [f"{word} {count}\n" for word, count in counts.most_common()]
    (folder / "stackoverflow.word_count").write_text("".join(lines))
    with h5py.File(folder / "gldv2.h5", "w") as file:
        for client in range(CLIENTS):
            group = file.create_group(f"examples/{client}")
            group["image"] = draw.integers(0, 256, (8 + client, 32, 32, 3), dtype=np.uint8)
            group["label"] = draw.integers(0, 12, 8 + client)
