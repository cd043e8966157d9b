"""Rules of Pillutla et al. (ICML 2022) on files with as many clients and samples as public ones, of 2 × 2 pixels."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from ppfl.core.communicator import Communicator
from tests.ranks import on_ranks
from tests.test_datasets import load, placement

DATA = Path(os.environ.get("PPFL_DATA", ""))
CONFIGS = Path(__file__).parents[2] / "configs"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DATA / "emnist_client_sizes_train.csv").is_file(), reason="PPFL_DATA has no sizes of public clients"
    ),
]


def published(name: str) -> dict[str, int]:
    with (DATA / f"{name}.csv").open() as lines:
        return {client: int(size) for client, size in list(csv.reader(lines))[1:]}


def write(path: Path, sizes: Mapping[str, int]) -> str:
    images = np.random.default_rng(0).integers(0, 256, (max(sizes.values()), 2, 2), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        for client, size in sizes.items():
            file[f"examples/{client}/pixels"] = images[:size]
            file[f"examples/{client}/label"] = np.arange(size, dtype=np.int32) % 62
    return str(path)


def rule(name: str) -> dict[str, Any]:
    """Return who takes part by the configuration of the study."""
    document = yaml.safe_load((CONFIGS / name / "pretrain.yaml").read_text(encoding="utf-8"))
    section: dict[str, Any] = document["problem"]["dataset"]["clients"]
    return section


def test_federated_emnist(tmp_path: Path) -> None:
    """3,400 writers; which of them have 25 samples to test on is made up: every ninth sample beside the others."""
    train = published("emnist_client_sizes_train")
    test = {name: -(-size // 9) for name, size in train.items()}
    assert (len(train), sum(train.values())) == (3400, 671_585)
    keys = {
        "name": "federated_hdf5", "train": write(tmp_path / "train.h5", train),
        "test": write(tmp_path / "test.h5", test), "validation": 0,
    }  # fmt: skip
    wanted = sorted(name for name in train if train[name] >= 100 and test[name] >= 25)

    def of_rank(communicator: Communicator) -> tuple[range, int]:
        everybody = load(keys, placement(communicator))
        assert everybody.client_names == tuple(sorted(train))
        assert everybody.num_train_samples == tuple(train[name] for name in sorted(train))
        assert everybody.num_test_samples == tuple(test[name] for name in sorted(train))
        found = load({**keys, "clients": rule("femnist")}, placement(communicator))
        assert list(found.client_names) == wanted
        assert found.num_train_samples == tuple(train[name] for name in wanted)
        mine = sum(train[wanted[client]] + test[wanted[client]] for client in found.clients)
        assert sum(pack.x.nbytes for pack in found.parts.packs) == 4 * mine  # bytes, and of its own clients alone
        return found.clients, mine

    first, second = on_ranks(2, of_rank)
    assert [*first[0], *second[0]] == [*range(len(wanted))]
    assert abs(first[1] - second[1]) < 1000


def test_gldv2(tmp_path: Path) -> None:
    """823 clients with 50 samples or more, half of them to test on; others, whom the rule leaves out, are made up."""
    sizes = {name: [published(f"gldv2_client_sizes_{part}")[name] for part in ("train", "test")]
             for name in published("gldv2_client_sizes_train")}  # fmt: skip
    totals = {name: sum(of) for name, of in sizes.items()}
    others = {f"9{number:05}": 1 + number % 49 for number in range(439)}
    keys = {"name": "federated_hdf5", "train": write(tmp_path / "gldv2.h5", totals | others), "validation": 0}
    found = load({**keys, "test": 0.5, "clients": rule("gldv2")})
    assert len(totals) == len(found.client_names) == 823
    assert found.client_names == tuple(sorted(totals))
    for name, train, test in zip(found.client_names, found.num_train_samples, found.num_test_samples, strict=True):
        assert train + test == min(totals[name], 2000)
        assert test == (train + test) // 2
    of_file = load({**keys, "test": 0.5})
    assert len(of_file.client_names) == 1262
