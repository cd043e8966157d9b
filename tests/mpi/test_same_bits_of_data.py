"""Centralized sets, partitions and shifts: byte-identical on 1, 2 and 3 MPI ranks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import examples
from tests.mpi.jobs import arrays
from tests.mpi.test_same_bits import start_ranks

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

DATA = Path(os.environ.get("PPFL_DATA", ""))
RANK_COUNTS = (1, 2, 3)
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


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the results of every case whose files are there; each number of ranks is started once."""
    folder = tmp_path_factory.mktemp("same-bits-of-data")
    there = [case for case, (_, needs) in CASES.items() if not needs or (DATA / needs).is_file()]
    for case in there:
        if case in OWN:
            shutil.copytree(examples.files("datasets", case), folder, dirs_exist_ok=True)
        (folder / f"{case}.yaml").write_text(yaml.safe_dump(config_of(case)))
    for count in RANK_COUNTS:
        start_ranks(count, folder, there)
    return folder


def config_of(case: str) -> dict[str, Any]:
    return {
        "name": "data", "seed": 3, "rounds": 3, "precision": "float32", "save": {"local": True},
        "server_optimizer": {"name": "sgd"}, "evaluate": {"every": 3, "samples": 50, "clients": 3, "tuned": None},
        "problem": {
            "name": "supervised", "dataset": plain(CASES[case][0]), "model": LOGISTIC,
            "split": {"local": ["head.bias"]}, "batch_size": 8,
        },
        "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": SGD},
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_result_arrays_are_byte_identical(results: Path, case: str) -> None:
    needs = CASES[case][1]
    if needs and not (DATA / needs).is_file():
        pytest.skip(f"{case} NOT TESTED: set PPFL_DATA to the folder of {needs}")
    expected, *others = (arrays(results / f"ranks-{count}" / f"{case}.h5") for count in RANK_COUNTS)
    assert len(expected) > 20
    for found in others:
        assert found == expected
