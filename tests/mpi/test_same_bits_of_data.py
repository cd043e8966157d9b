"""Centralized sets, partitions and shifts: byte-identical on 1, 2 and 3 MPI ranks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from tests import examples
from tests.mpi.jobs import job

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

DATA = Path(os.environ.get("PPFL_DATA", ""))
SGD = {"name": "sgd", "lr": 0.1, "batch_size": 8}
LOGISTIC = {"name": "logistic_regression"}
OWN = examples.names_of_files("datasets")
"""Data sets whose examples name their own files."""
CASES: dict[str, tuple[dict[str, Any], str]] = {
    **{
        name: (examples.section("datasets", name), "")
        for name in sorted(OWN)
        if "partition" in examples.kind("datasets", name).example
    },
    "rotated digits": (
        {"name": "digits", "partition": {"name": "label_quantity", "clients": 9, "labels_per_client": 3},
         "shift": {"name": "rotation", "clusters": 4, "order": "drawn"}}, "",
    ),
    "a9a": (
        {"name": "libsvm", "train": "a9a.svm.gz",
         "partition": {"name": "shards", "clients": 20, "shards_per_client": 1}},
        "a9a.svm.gz",
    ),
    "mnist20": (
        {"name": "federated_hdf5", "train": "mnist20_train.h5", "test": "mnist20_test.h5",
         "shift": {"name": "label_permutation", "clusters": 4}}, "mnist20_train.h5",
    ),
}  # fmt: skip


def plain(value: Any) -> Any:
    """Return what YAML can say."""
    return yaml.safe_load(yaml.safe_dump(value))


@pytest.mark.parametrize("case", CASES)
def test_result_arrays_are_byte_identical(tmp_path: Path, case: str) -> None:
    dataset, needs = CASES[case]
    if needs and not (DATA / needs).is_file():
        pytest.skip(f"{case} NOT TESTED: set PPFL_DATA to the folder of {needs}")
    if case in OWN:
        shutil.copytree(examples.files("datasets", case), tmp_path, dirs_exist_ok=True)
    config = {
        "rounds": 3, "precision": "float32", "save": {"local": False}, "server_optimizer": {"name": "sgd"},
        "evaluate": {"every": 3, "samples": 50, "clients": 3, "tuned": None},
        "problem": {
            "name": "supervised", "dataset": plain(dataset), "model": LOGISTIC, "split": {"local": ["head.bias"]},
            "batch_size": 8,
        },
        "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": SGD},
    }  # fmt: skip
    arrays: list[dict[str, np.ndarray]] = []
    for ranks in (1, 2, 3):
        out = tmp_path / f"{ranks}.h5"
        with job(ranks, out, config=config) as process:
            said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        with h5py.File(out) as file:
            arrays.append({f"{group}/{name}": file[group][name][()] for group in file for name in file[group]})
    assert len(arrays[0]) > 20
    for others in arrays[1:]:
        assert list(others) == list(arrays[0])
        for name, values in others.items():
            if "seconds" not in name and values.dtype != object:
                assert values.tobytes() == arrays[0][name].tobytes(), name
