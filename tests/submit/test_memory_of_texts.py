"""What a rank needs for texts, estimated from a look at some clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import pytest

from ppfl.config.run import validate
from ppfl.submit.memory import memory_mb

MODEL = {"name": "transformer", "width": 8, "layers": 1, "heads": 2, "feed_forward": 8}
FEDAVG = {"name": "fedavg", "lr": 0.1, "epochs": 1, "batch_size": 4}


def write(folder: Path, num_clients: int, texts: list[str], field: str) -> None:
    with h5py.File(folder / "train.h5", "w") as file:
        for client in range(num_clients):
            file.create_dataset(f"examples/{client:04}/{field}", data=texts, dtype=h5py.string_dtype())


def needed(folder: Path, unit: str, *, batch_size: object = 4, test: object = 0.2, **dataset: Any) -> int | None:
    problem = {
        "name": "supervised", "model": MODEL, "task": {"name": "next_token"}, "split": {"local": []},
        "dataset": {"name": "text_hdf5", "train": "train.h5", "test": test, "unit": unit, "length": 20, **dataset},
        "batch_size": batch_size,
    }  # fmt: skip
    document = {"name": "texts", "rounds": 2, "problem": problem, "algorithm": FEDAVG}
    return memory_mb([validate(document, folder, "texts")], 1, gpus=False)


def at_least(number: int | None) -> int:
    assert number is not None
    return number


@pytest.mark.parametrize(("unit", "field"), [("words", "tokens"), ("characters", "snippets")])
def test_what_a_rank_needs_grows_with_what_it_holds(tmp_path: Path, unit: str, field: str) -> None:
    text = "to be or not to be " * 6
    write(tmp_path, 3, [text] * 10, field)
    few = at_least(needed(tmp_path, unit))
    write(tmp_path, 150, [text] * 2500, field)
    assert at_least(needed(tmp_path, unit)) > few + 50


def test_logits_are_counted(tmp_path: Path) -> None:
    """As many as words, for each token of what is trained on at a time."""
    write(tmp_path, 2, ["to be or not to be"] * 400, "tokens")
    (tmp_path / "counts").write_text("".join(f"word{number} 1\n" for number in range(10_000)))
    few = at_least(needed(tmp_path, "words"))
    many = at_least(needed(tmp_path, "words", counts="counts"))
    assert many > few + 100
    assert at_least(needed(tmp_path, "words", counts="counts", batch_size="all")) > many + 500


def test_some_clients_stand_for_all(tmp_path: Path) -> None:
    """Of 342,477 clients not all texts are read for it: one that cannot be read is told by the run."""
    write(tmp_path, 130, ["to be or not to be"] * 10, "snippets")
    whole = needed(tmp_path, "characters")
    with h5py.File(tmp_path / "train.h5", "a") as file:
        del file["examples/0120/snippets"]
    assert needed(tmp_path, "characters") == whole is not None
    with h5py.File(tmp_path / "train.h5", "a") as file:
        del file["examples/0020/snippets"]
    assert needed(tmp_path, "characters") is None


def test_words_that_others_have_are_in_the_vocabulary(tmp_path: Path) -> None:
    write(tmp_path, 130, ["to be or not to be"], "tokens")
    assert at_least(needed(tmp_path, "words", words=10_000)) > at_least(needed(tmp_path, "words", words=10))


def test_a_file_to_test_on_counts(tmp_path: Path) -> None:
    write(tmp_path, 110, ["to be or not to be"] * 2000, "tokens")
    (tmp_path / "test.h5").write_bytes((tmp_path / "train.h5").read_bytes())
    assert at_least(needed(tmp_path, "words", test="test.h5")) > at_least(needed(tmp_path, "words"))
