"""The section `normalize`: what models see of every data set, and what stays in memory."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ppfl.core.errors import UserError
from ppfl.interfaces.client_data import Part
from ppfl.interfaces.normalization import Normalization
from ppfl.problems._supervised_data import SupervisedData
from ppfl.tasks.classification import Classification
from ppfl.tasks.regression import Regression
from tests import examples
from tests.engine.build import engine, ffgg
from tests.supervised_problems import make
from tests.test_datasets import placement, write

CLASSIFICATION = Classification(name="classification")
RGB = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def of_colours(dtype: str = "u1") -> dict[str, dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    sizes = {"a": 9, "b": 12, "c": 9}
    return {
        name: {"image": draw.integers(0, 256, (size, 6, 5, 3)).astype(dtype), "label": np.arange(size) % 3}
        for name, size in sizes.items()
    }


def test_what_is_drawn_is_normalized_whichever_way_it_is_drawn(tmp_path: Path) -> None:
    clients = of_colours()
    dataset = {"name": "federated_hdf5", "train": write(tmp_path / "train.h5", clients), "test": 0, "validation": 0}
    data = make({"dataset": {**dataset, "normalize": RGB}, "batch_size": 4}).client_data
    wanted = {
        number: (np.moveaxis(of["image"], -1, 1) / 255 - np.reshape(RGB["mean"], (3, 1, 1)))
        / np.reshape(RGB["std"], (3, 1, 1))
        for number, of in enumerate(clients.values())
    }
    whole = data.samples(1, "train", torch.arange(12))["x"].numpy()
    assert np.array_equal(whole, wanted[1])
    one_by_one = [data.data(client, 3)["x"] for client in range(3)]
    assert torch.equal(data.joined(range(3), 3)[0]["x"], torch.cat(one_by_one))
    epoch = torch.cat([batch["x"] for batch in data.training_epoch(2, 0)]).numpy()
    for client, found in [*enumerate(map(torch.Tensor.numpy, one_by_one)), (2, epoch)]:
        assert all((sample == wanted[client]).all(axis=(1, 2, 3)).any() for sample in found)


@pytest.mark.parametrize("name", examples.names("datasets"))
def test_every_data_set_of_numbers_takes_it(name: str) -> None:
    """Between what models see without it and with it lies (x − mean)/std, in every part; what is kept is the same."""
    plain = examples.make("datasets", name).load(placement(), 1)
    section = {"mean": [0.25] * plain.input_shape[0], "std": [0.5] * plain.input_shape[0]}
    if plain.vocabulary_size is not None:
        with pytest.raises(ValidationError, match="tokens"):
            examples.make("datasets", name, normalize=section)
        return
    settings = examples.make("datasets", name, normalize=section)
    samples = settings.load(placement(), 1)
    task = Regression(name="regression") if plain.parts.train.pack.y.dtype.kind == "f" else CLASSIFICATION
    before, after = (
        SupervisedData(plain, 4, placement(), task),
        SupervisedData(samples, 4, placement(), task, settings.normalize),
    )
    for client, part in product(plain.clients, get_args(Part)):
        rows = torch.arange(before.part_sizes(part)[client])
        one, other = (data.samples(client, part, rows) for data in (before, after))
        assert torch.equal((one["x"] - 0.25) / 0.5, other["x"])
        assert torch.equal(one["y"], other["y"])
    for one, other in zip(plain.parts.packs, samples.parts.packs, strict=True):
        assert one.x.dtype == other.x.dtype
        assert np.array_equal(one.x, other.x)


@pytest.mark.parametrize("clients_per_chunk", [1, 3])
@pytest.mark.parametrize("batch_size", ["all", 4])
def test_a_run_finds_what_it_finds_on_a_file_of_normalized_samples(
    tmp_path: Path, clients_per_chunk: int, batch_size: Any
) -> None:
    clients = of_colours()
    done = {name: {**of, "image": (of["image"] / 255 - RGB["mean"]) / RGB["std"]} for name, of in clients.items()}
    stored = {"name": "federated_hdf5", "train": write(tmp_path / "bytes.h5", clients), "normalize": RGB}
    already = {"name": "federated_hdf5", "train": write(tmp_path / "done.h5", done)}
    model = {"name": "cnn", "kernel_size": 3, "padding": 1, "channels": [2, 2], "hidden": 4}
    sections: dict[str, Any] = {
        "algorithm": ffgg({"name": "sgd", "lr": 0.1, "batch_size": 3}, 0.1), "rounds": 6,
        "engine": {"clients_per_chunk": clients_per_chunk}, "evaluate": {"every": 3, "tuned": {"epochs": 1}},
    }  # fmt: skip
    found = []
    for dataset in (stored, already):
        problem = {"name": "supervised", "dataset": dataset, "model": model, "split": {"local": ["head.*"]}}
        running = engine(problem={**problem, "batch_size": batch_size}, **sections)
        found.append([scored.metrics for scored in running])
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == pytest.approx(other[name], rel=1e-10, abs=1e-12, nan_ok=True), name


def test_other_channels_are_refused(tmp_path: Path) -> None:
    dataset = {"name": "federated_hdf5", "train": write(tmp_path / "train.h5", of_colours())}
    with pytest.raises(UserError, match=r"normalize\.mean: has 1 numbers; samples of shape .3, 6, 5. have 3 channels"):
        make({"dataset": {**dataset, "normalize": {"mean": [0.5], "std": [0.5]}}})
    with pytest.raises(UserError, match="samples are tokens"):
        Normalization(mean=(0.5,), std=(1.0,)).check((20,), 24)


@pytest.mark.parametrize(
    "section",
    [{"mean": [0.5]}, {"mean": [0.5], "std": [0.0]}, {"mean": [0.5], "std": [-1.0]},
     {"mean": [0.5], "std": [9e-7]}, {"mean": [], "std": []},
     {"mean": [0.5, 0.5], "std": [1.0]}, {"mean": [float("nan")], "std": [1.0]}, {"mean": 0.5, "std": 1.0}],
    ids=str,
)  # fmt: skip
def test_numbers_that_are_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Normalization.model_validate(section)
