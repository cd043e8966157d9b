"""What a rank needs where not all clients of a file take part, or have less than there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ppfl.config.run import validate
from ppfl.submit.memory import memory_mb
from tests.test_flat_data import write_flat


def needed(folder: Path, **dataset: Any) -> int:
    problem = {
        "name": "supervised", "model": {"name": "logistic_regression"}, "split": {"local": []}, "batch_size": 4,
        "dataset": {"name": "federated_hdf5", "train": "train.h5", **dataset},
    }  # fmt: skip
    document = {"name": "x", "rounds": 2, "problem": problem, "algorithm": {"name": "fedavg", "lr": 0.1, "epochs": 1}}
    found = memory_mb([validate(document, folder, "x")], 1, gpus=False)
    assert found is not None
    return found


@pytest.mark.parametrize("layout", ["grouped", "flat"])
def test_who_does_not_take_part_needs_no_memory(tmp_path: Path, layout: str) -> None:
    """40 clients of 4 MiB each."""
    of_client = {"pixels": np.zeros((64, 256, 256), np.uint8), "label": np.zeros(64, np.int64)}
    clients = {f"c{number:02}": of_client for number in range(40)}
    if layout == "flat":
        write_flat(tmp_path / "train.h5", clients, coarse_label=np.zeros(40 * 64, np.int64))
    else:
        with h5py.File(tmp_path / "train.h5", "w") as file:
            for name, fields in clients.items():
                for field, values in fields.items():
                    file[f"examples/{name}/{field}"] = values
                file[f"examples/{name}/coarse_label"] = of_client["label"]
    everybody = needed(tmp_path)
    for rule in ({"first": 4}, {"draw": 4}, {"names": ["c00", "c07"]}, {"max_samples": 6}):
        assert needed(tmp_path, clients=rule) < everybody - 100, rule
    assert needed(tmp_path, clients={"min_train": 1}) == everybody
    assert needed(tmp_path, label="coarse_label") == everybody
