"""The flat layout of `federated_hdf5`: the data of the layout with a group a client, and what is refused of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import ppfl
from ppfl.core.communicator import Communicator
from ppfl.core.errors import UserError
from ppfl.datasets import _flat_file, federated_hdf5
from ppfl.datasets._row_spans import RowSpans
from ppfl.interfaces.dataset import FederatedSamples
from ppfl.problems._supervised_data import SupervisedData
from ppfl.tasks.classification import Classification
from tests.ranks import on_ranks
from tests.test_datasets import images, load, placement, write

torch.set_num_threads(1)

Clients = Mapping[str, Mapping[str, np.ndarray]]
FACTS = ("client_names", "num_train_samples", "num_validation_samples", "num_test_samples", "input_shape", "divisor")


def write_flat(path: Path, clients: Clients, field: str = "pixels", **changed: Any) -> str:
    """Write clients in the given order; `changed` are arrays in the place of others, None where there is none."""
    fields = list(clients.values())
    arrays = {
        field: np.concatenate([of["pixels"] for of in fields]),
        "label": np.concatenate([of["label"] for of in fields]),
        "offsets": np.cumsum([0, *(len(of["label"]) for of in fields)]),
        "client": np.array([name.encode() for name in clients]),
    }
    with h5py.File(path, "w") as file:
        for name, value in (arrays | changed).items():
            if value is not None:
                file[name] = value
    return str(path)


def random(sizes: Mapping[str, int], shape: tuple[int, ...] = (5,), dtype: str = "f4") -> dict[str, Any]:
    draw = np.random.default_rng(0)
    of: dict[str, Any] = {}
    for name, size in sizes.items():
        x = draw.random((size, *shape)) * (255 if dtype == "u1" else 1)
        of[name] = {"pixels": x.astype(dtype), "label": draw.integers(0, 4, size)}
    return of


def same(one: FederatedSamples, other: FederatedSamples) -> None:
    for fact in FACTS:
        assert getattr(one, fact) == getattr(other, fact), fact
    assert one.clients == other.clients
    assert list(one.samples) == list(other.samples)
    for client, parts in one.samples.items():
        for mine, others in zip(parts, other.samples[client], strict=True):
            assert mine.x.dtype == others.x.dtype
            assert mine.x.shape == others.x.shape
            assert np.array_equal(mine.x, others.x)
            assert np.array_equal(mine.y, others.y)


TRAIN = {"d": 30, "a": 21, "empty": 0, "b": 7, "ü c": 12}
TEST = {"b": 4, "z": 3, "a": 6}


@pytest.mark.parametrize("usable", [0.5, 0.0], ids=["held", "in the file"])
@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 23])
@pytest.mark.parametrize("test", ["fraction", "flat", "grouped"])
@pytest.mark.parametrize(("shape", "dtype"), [((5,), "f4"), ((3, 2), ">f8"), ((3, 2, 3), "u1"), ((4,), "f2")])
def test_the_same_data_as_with_a_group_a_client(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    dtype: str,
    test: str,
    block_bytes: int,
    usable: float,
) -> None:
    monkeypatch.setattr(_flat_file, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(federated_hdf5, "_USABLE", usable)
    train, tested = random(TRAIN, shape, dtype), random(TEST, shape, dtype)
    grouped = {"name": "federated_hdf5", "train": write(tmp_path / "train.h5", train), "validation": 0.3, "test": 0.25}
    flat = grouped | {"train": write_flat(tmp_path / "flat.h5", train)}
    if test != "fraction":
        grouped["test"] = write(tmp_path / "test.h5", tested)
        flat["test"] = grouped["test"] if test == "grouped" else write_flat(tmp_path / "flat_test.h5", tested)
    where = replace(placement(seed=3), dtype=torch.float32)
    same(load(flat, where), load(grouped, where))
    if test == "fraction":
        same(load(flat | {"test": 0.0, "validation": 0.0}), load(grouped | {"test": 0.0, "validation": 0.0}))


def test_clients_in_any_order_and_names_of_either_kind(tmp_path: Path) -> None:
    clients, keys = random(TRAIN), {"name": "federated_hdf5"}
    wanted = load(keys | {"train": write_flat(tmp_path / "sorted.h5", dict(sorted(clients.items())))})
    other = dict(reversed(clients.items()))
    texts = np.array(list(other), h5py.string_dtype())
    found = load(keys | {"train": write_flat(tmp_path / "other.h5", other, "samples", client=texts)})
    same(found, wanted)
    same(found, load(keys | {"train": write(tmp_path / "grouped.h5", clients)}))


@pytest.mark.parametrize("clients_per_chunk", [1, 2])
def test_ranks_read_their_own_clients(tmp_path: Path, clients_per_chunk: int) -> None:
    clients = random({f"c{m:02d}": 5 + 3 * (m % 4) for m in (7, 0, 3, 9, 1, 8, 2, 4, 6, 5)})
    flat = {"name": "federated_hdf5", "train": write_flat(tmp_path / "flat.h5", clients)}
    grouped = {"name": "federated_hdf5", "train": write(tmp_path / "grouped.h5", clients)}

    def compare(communicator: Communicator) -> int:
        mine = load(flat, placement(communicator), clients_per_chunk)
        same(mine, load(grouped, placement(communicator), clients_per_chunk))
        return mine.parts.train.pack.y.nbytes

    assert all(0 < held < 8 * sum(len(of["label"]) for of in clients.values()) for held in on_ranks(3, compare))


def test_batches_are_the_same_bits_held_or_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = random(TRAIN, (3, 2), "u1")
    paths = [write(tmp_path / "grouped.h5", clients), *[write_flat(tmp_path / "flat.h5", clients)] * 2]
    found = []
    for path, usable in zip(paths, (0.5, 0.5, 0.0), strict=True):
        monkeypatch.setattr(federated_hdf5, "_USABLE", usable)
        data = SupervisedData(
            load({"name": "federated_hdf5", "train": path}), 6, placement(), Classification(name="classification")
        )
        with_samples = [client for client, size in enumerate(data.num_train_samples) if size]
        of_round = data.joined(with_samples, 4)[0]
        one_by_one = [data.data(client, 4) for client in with_samples]
        epochs = [batch for client in with_samples for batch in data.training_epoch(client, 1)]
        rows = [data.samples(client, "test", torch.tensor([1, 0])) for client in (0, 2)]
        numbers = [value for batch in (of_round, *one_by_one, *epochs, *rows) for value in batch.values()]
        found.append([*numbers, torch.from_numpy(data.label_histogram)])
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_a_file_that_changes_while_a_run_reads_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federated_hdf5, "_USABLE", 0.0)
    path = write_flat(tmp_path / "flat.h5", random(TRAIN))
    data = load({"name": "federated_hdf5", "train": path})
    assert len(data.samples[0].train)
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match=r"problem\.dataset\.train: .*flat\.h5: was changed while the run reads"):
        data.samples[0]


def test_results_are_the_same_bits(tmp_path: Path) -> None:
    clients = random({f"c{m}": 8 + m for m in range(6)})
    paths = {
        "grouped": write(tmp_path / "grouped.h5", clients), "flat": write_flat(tmp_path / "flat.h5", clients),
    }  # fmt: skip
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for layout, path in paths.items():
        document = {
            "name": "flat", "rounds": 6, "cohort": 4, "evaluate": {"every": 2, "clients": 3},
            "problem": {
                "name": "supervised", "dataset": {"name": "federated_hdf5", "train": path},
                "model": {"name": "mlp", "hidden": [4]}, "split": {"local": ["head.*"]}, "batch_size": 3,
            },
            "algorithm": {"name": "ffgg", "lr": 0.1, "fine_tuner": {"name": "sgd", "lr": 0.1, "batch_size": 2}},
        }  # fmt: skip
        out = tmp_path / f"{layout}-result.h5"
        ppfl.run(document, out=out)
        with h5py.File(out) as file:
            arrays[layout] = {f"{group}/{name}": file[group][name][()] for group in file for name in file[group]}
    assert list(arrays["flat"]) == list(arrays["grouped"])
    assert len(arrays["flat"]) > 30
    for name, values in arrays["flat"].items():
        if "seconds" not in name:
            assert values.tobytes() == arrays["grouped"][name].tobytes() or values.dtype == object, name


GOOD = {"a": images(6), "b": images(4)}
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no samples": ({"pixels": None}, "no samples; the flat layout is samples"),
    "no label": ({"label": None}, "no label; the flat layout"),
    "no names": ({"client": None}, "no client; the flat layout"),
    "no offsets": ({"offsets": None}, "has no clients; the layout is examples/<client>/pixels .*; the flat layout is"),
    "labels": ({"label": np.zeros(9, np.int64)}, "10 pixels but 9 labels"),
    "float labels": ({"label": np.zeros(10)}, "label is float64"),
    "negative label": ({"label": np.array([0] * 7 + [-1, 0, 0])}, "client 'b': a label is -1; allowed are 0 to 65535"),
    "huge label": ({"label": np.array([0] * 5 + [2**64 - 1] * 5, np.uint64)}, "client 'a': a label is 18446744073709"),
    "one number": ({"pixels": np.zeros(10, np.uint8)}, r"pixels have shape \(10,\); allowed are"),
    "no numbers": ({"pixels": np.zeros((10, 0), np.uint8)}, "a sample needs at least one number"),
    "integers": ({"pixels": np.zeros((10, 2), np.int32)}, "pixels are int32; allowed are uint8"),
    "begin": ({"offsets": np.array([1, 6, 10])}, "offsets: go from 1 to 10; they must go from 0 to 10, the number of"),
    "end": ({"offsets": np.array([0, 6, 9])}, "offsets: go from 0 to 9; they must go from 0 to 10"),
    "beyond": ({"offsets": np.array([0, 6, 2**63], np.uint64)}, "offsets: go from 0 to 9223372036854775808"),
    "fall": (
        {"offsets": np.array([0, 6, 4, 10]), "client": np.array([b"a", b"b", b"c"])},
        "offsets: fall from 6 to 4 after entry 1",
    ),
    "unsigned fall": (
        {"offsets": np.array([0, 6, 4, 10], np.uint8), "client": np.array([b"a", b"b", b"c"])},
        "offsets: fall from 6 to 4 after entry 1",
    ),
    "float offsets": ({"offsets": np.array([0.0, 6, 10])}, r"offsets: is float64 of shape \(3,\); it must hold"),
    "one offset": ({"offsets": np.array([0])}, r"offsets: is int64 of shape \(1,\); it must hold an integer a client"),
    "offsets of two axes": ({"offsets": np.zeros((3, 1), int)}, r"offsets: is int64 of shape \(3, 1\)"),
    "names": ({"client": np.array([b"a"])}, r"client: has shape \(1,\), and offsets 3 entries"),
    "numbers as names": ({"client": np.array([1, 2])}, r"client: is int64 of shape \(2,\); it must hold one text"),
    "no text": ({"client": np.array([b"a", b"\xff"])}, r"client: the entry b'\\xff' is no text in UTF-8"),
    "empty name": ({"client": np.array([b"a", b""])}, "client: has ''; a name must have a character"),
    "zero in a name": ({"client": np.array([b"a", b"b\0c"])}, r"client: has 'b\\x00c'; a name must have"),
    "twice": ({"client": np.array([b"a", b"a"])}, "client: names 'a' more than once"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_on_every_rank(tmp_path: Path, case: str) -> None:
    changed, message = BROKEN[case]
    keys = {"name": "federated_hdf5", "train": write_flat(tmp_path / "flat.h5", GOOD, **changed)}
    message = r"problem\.dataset\.train: .*" + message
    with pytest.raises(UserError, match=message) as refused:
        load(keys)
    assert "\n" not in str(refused.value)

    def refused_on(communicator: Communicator) -> bool:
        with pytest.raises(UserError, match=message):
            load(keys, placement(communicator))
        return True

    assert on_ranks(2, refused_on) == [True, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_numbers_that_no_run_can_use(tmp_path: Path, bad: float) -> None:
    clients = random({"b": 9, "a": 20, "c": 5}, dtype="f8")
    clients["a"]["pixels"][7, 2] = bad
    keys = {"name": "federated_hdf5", "train": write_flat(tmp_path / "flat.h5", clients)}
    if bad == 1e39:
        load(keys)
    with pytest.raises(UserError, match=r"train: .*flat\.h5, client 'a': a sample has NaN, inf or a number beyond 3"):
        load(keys, replace(placement(), dtype=torch.float32))


def test_whose_they_are_is_known_beyond_the_first_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_flat_file, "BLOCK_BYTES", 64)
    clients = random({"b": 9, "a": 20, "c": 5})
    clients["c"]["pixels"][4, 2] = np.nan
    keys = {"name": "federated_hdf5", "train": write_flat(tmp_path / "flat.h5", clients)}
    with pytest.raises(UserError, match=r"client 'c': a sample has NaN"):
        load(keys)


def test_samples_of_both_files_must_look_alike(tmp_path: Path) -> None:
    train = write_flat(tmp_path / "train.h5", random(TRAIN, (5,)))
    test = write_flat(tmp_path / "test.h5", random(TEST, (4,)))
    with pytest.raises(UserError, match=r"problem\.dataset\.test: .*must agree"):
        load({"name": "federated_hdf5", "train": train, "test": test})


@pytest.mark.parametrize("num_rows", [1, 3, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_spans_are_read_in_blocks_and_packed(seed: int, num_rows: int) -> None:
    """Some of the clients of a file, in another order than the file's, some without rows."""
    draw = np.random.default_rng(seed)
    bounds = np.cumsum([0, *draw.integers(0, 5, 12)])
    mine = draw.permutation(12)[: int(draw.integers(0, 13))]
    starts, sizes = bounds[:-1][mine], np.diff(bounds)[mine]
    spans, pack, read = RowSpans(starts, sizes), [], 0
    for first, last, chosen in spans.blocks(num_rows):
        assert 0 < last - first <= num_rows
        rows = np.arange(first, last)
        pack += (rows if chosen is None else rows[chosen]).tolist()
        read += last - first
    assert spans.num_rows == len(pack) == sizes.sum()
    for client, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        begin = int(spans.starts_in_pack[client])
        assert pack[begin : begin + size] == list(range(start, start + size))
        for row in range(begin, begin + size):
            assert spans.client_at(row) == client
            assert spans.row_in_file(row) == pack[row]
