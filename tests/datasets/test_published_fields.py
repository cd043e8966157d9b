"""The public federated files as they are published: their fields, their number types, and what of them is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ppfl.core.errors import UserError
from ppfl.interfaces.dataset import FederatedSamples
from tests.tasks.test_texts import load as load_texts
from tests.test_datasets import load
from tests.test_flat_data import write_flat

TEXT = h5py.string_dtype()


def write(path: Path, client: str, **fields: Any) -> str:
    with h5py.File(path, "a") as file:
        for name, values in fields.items():
            of_texts = isinstance(values, list) and isinstance(values[0], str)
            file.create_dataset(f"examples/{client}/{name}", data=values, dtype=TEXT if of_texts else None)
    return str(path)


def read(path: str, **keys: Any) -> FederatedSamples:
    return load({"name": "federated_hdf5", "train": path, "test": 0, "validation": 0, **keys})


def test_emnist(tmp_path: Path) -> None:
    """pixels float32, white 1.0; label int32."""
    pixels = np.random.default_rng(0).random((5, 28, 28), np.float32)
    path = write(tmp_path / "emnist.h5", "f0000_14", pixels=pixels, label=np.arange(57, 62, dtype=np.int32))
    found = read(path)
    assert (found.input_shape, found.divisor) == ((1, 28, 28), 1.0)
    train = found.samples[0].train
    assert train.x.dtype == np.float32
    assert np.array_equal(train.x[:, 0], pixels)
    assert train.y.tolist() == [57, 58, 59, 60, 61]


def cifar(client: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(client)
    label = draw.integers(0, 100, 7)
    image = draw.integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
    return {"image": image, "label": label, "coarse_label": label // 5}


def test_cifar100_by_either_label(tmp_path: Path) -> None:
    """image uint8, label and coarse_label int64."""
    for client in range(2):
        path = write(tmp_path / "cifar100.h5", str(client), **cifar(client))
    fine, coarse = read(path), read(path, label="coarse_label")
    assert fine.input_shape == (3, 32, 32)
    assert fine.divisor == 255
    for client in range(2):
        wanted = cifar(client)
        train, of_groups = fine.samples[client].train, coarse.samples[client].train
        assert train.x.dtype == np.uint8
        assert np.array_equal(train.x, np.moveaxis(wanted["image"], -1, 1))
        assert np.array_equal(train.x, of_groups.x)
        assert np.array_equal(train.y, wanted["label"])
        assert np.array_equal(of_groups.y, wanted["coarse_label"])
    assert coarse.labels_from.endswith("cifar100.h5, coarse_label")


def test_the_flat_layout_may_have_other_labels_too(tmp_path: Path) -> None:
    clients = {"a": {"pixels": cifar(0)["image"], "label": cifar(0)["label"]}}
    path = write_flat(tmp_path / "flat.h5", clients, coarse_label=cifar(0)["coarse_label"])
    found = read(path, label="coarse_label")
    assert np.array_equal(found.samples[0].train.y, cifar(0)["coarse_label"])
    with pytest.raises(UserError, match="no colour; the flat layout"):
        read(path, label="colour")


@pytest.mark.parametrize("rule", [None, {"min_train": 1}], ids=["everybody", "by size"])
def test_a_label_that_is_not_there(tmp_path: Path, rule: dict[str, int] | None) -> None:
    path = write(tmp_path / "cifar100.h5", "7", **cifar(0))
    with pytest.raises(UserError, match=r"problem\.dataset\.train: .*cifar100\.h5, client '7': no colour; the layout"):
        read(path, label="colour", clients=rule)


def test_labels_out_of_range_are_told_by_their_name(tmp_path: Path) -> None:
    of_client = cifar(0)
    of_client["coarse_label"][3] = -1
    path = write(tmp_path / "cifar100.h5", "7", **of_client)
    assert len(read(path).samples[0].train)
    with pytest.raises(UserError, match="client '7': coarse_labels range from -1 to"):
        read(path, label="coarse_label")


def test_shakespeare(tmp_path: Path) -> None:
    """snippets, texts of variable length."""
    lines = ["Good morrow, cousin.\nIs the day so young?", "But new struck nine."]
    path = write(tmp_path / "shakespeare.h5", "THE_TRAGEDY_OF_ROMEO_AND_JULIET_BENVOLIO", snippets=lines)
    assert load_texts(tmp_path, train=path, length=80).num_train_samples == (2,)


def test_stackoverflow_with_its_counts(tmp_path: Path) -> None:
    """creation_date, tags, title, tokens and type are texts, score int64; a line of the counts is `word count`."""
    fields = {
        "creation_date": ["2009-01-01 10:00:00.123 UTC"] * 2, "score": np.array([3, -1]), "tags": ["c|arrays", "c"],
        "title": ["how to sort", "how to sort"], "tokens": ["how do i sort an array", "sort it"],
        "type": ["question", "answer"],
    }  # fmt: skip
    path = write(tmp_path / "stackoverflow.h5", "00000004", **fields)
    (tmp_path / "stackoverflow.word_count").write_text("the 99\nsort 9\nhow 8\nto 8\ni 7\n")
    keys = {"train": path, "unit": "words", "length": 4, "counts": "stackoverflow.word_count", "words": 4}
    assert load_texts(tmp_path, **keys).samples[0].train.y.tolist() == [[3, 5, 5, 2], [2, 5, 7, 0]]
    titles = load_texts(tmp_path, **keys, field="title").samples[0].train.y
    assert titles.tolist() == [[3, 4, 2, 7]] * 2
