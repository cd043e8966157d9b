"""The file of the example of `function`."""

from __future__ import annotations

from pathlib import Path

SOURCE = """
import numpy as np


# images of noise, and labels that have nothing to do with them; a client has three samples more than the one before it
def build(clients):
    draw = np.random.default_rng(0)
    return {f"c{client}": of_client(draw, 6 + 3 * client) for client in range(clients)}


def of_client(draw, size):
    images, labels = draw.integers(0, 256, (size, 8, 8)).astype(np.uint8), draw.integers(0, 10, size)
    return {"train": (images, labels), "test": (images[: size % 4], labels[: size % 4])}
"""


def write(folder: Path) -> None:
    (folder / "my_data.py").write_text(SOURCE, encoding="utf-8")
