"""Data sets: what is read, by whom, how it is cut, and what is refused."""

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
from pydantic import TypeAdapter, ValidationError

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.communicator import Communicator
from ppfl.core.errors import UserError
from ppfl.core.plugins import discover
from ppfl.interfaces.data_hdf5 import DataArray, DataGroup
from ppfl.interfaces.dataset import FederatedSamples
from ppfl.interfaces.placement import Placement
from tests.ranks import on_ranks

Clients = Mapping[str, Mapping[str, np.ndarray]]


def placement(communicator: Communicator | None = None, seed: int = 0) -> Placement:
    return Placement(communicator or SoloCommunicator(), seed, seed, torch.float64, torch.device("cpu"))


def load(keys: dict[str, Any], where: Placement | None = None, clients_per_chunk: int = 1) -> FederatedSamples:
    dataset = TypeAdapter(discover("ppfl.datasets")[keys["name"]]).validate_python(keys)
    loaded: FederatedSamples = dataset.load(where or placement(), clients_per_chunk)
    return loaded


def write(path: Path, clients: Clients, **how: Any) -> str:
    with h5py.File(path, "w") as file:
        file.create_group("examples")
        for name, fields in clients.items():
            for field, value in fields.items():
                file.create_dataset(f"examples/{name}/{field}", data=value, **how)
    return str(path)


def images(num_samples: int, first: int = 0, shape: tuple[int, ...] = (5, 4)) -> dict[str, np.ndarray]:
    """Sample s of the result is constant and says its number, so that it can be recognized."""
    numbers = np.arange(first, first + num_samples)
    pixels = np.broadcast_to(numbers.reshape(-1, *[1] * len(shape)), (num_samples, *shape)).astype(np.uint8)
    return {"pixels": pixels, "label": (numbers % 3).astype(np.int32)}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    train = write(tmp_path / "train.h5", {"c": images(30), "a": images(21, 100), "b": images(0)})
    test = write(tmp_path / "test.h5", {"a": images(4, 200), "d": images(3, 210)})
    return {"name": "federated_hdf5", "train": train, "test": test}


def test_clients_are_sorted_and_parts_cut(files: dict[str, Any]) -> None:
    data = load(files)
    assert data.client_names == ("a", "b", "c", "d")
    assert data.num_train_samples == (19, 0, 27, 0)
    assert data.num_validation_samples == (2, 0, 3, 0)
    assert data.num_test_samples == (4, 0, 0, 3)
    assert data.input_shape == (1, 5, 4)
    assert data.divisor == 255
    a = data.samples[0]
    assert sorted([*a.train.x[:, 0, 0, 0], *a.validation.x[:, 0, 0, 0]]) == list(range(100, 121))
    assert a.test.x[:, 0, 0, 0].tolist() == [200, 201, 202, 203]
    for client, parts in data.samples.items():
        for part, sizes in zip(parts, (data.num_train_samples, data.num_validation_samples, data.num_test_samples),
                               strict=True):  # fmt: skip
            assert len(part) == len(part.x) == sizes[client]
            assert part.x.shape[1:] == (1, 5, 4)
            assert np.array_equal(part.y, part.x[:, 0, 0, 0] % 3)
            assert np.all(np.diff(part.x[:, 0, 0, 0].astype(int)) > 0)


def test_parts_depend_on_seed_and_client_alone(files: dict[str, Any], tmp_path: Path) -> None:
    def validation(data: FederatedSamples, client: int) -> list[int]:
        chosen: list[int] = data.samples[client].validation.x[:, 0, 0, 0].tolist()
        return chosen

    more = {**files, "validation": 0.3}
    assert validation(load(more), 0) == validation(load(more), 0)
    assert validation(load(more), 0) != validation(load(more, placement(seed=1)), 0)
    twins = write(tmp_path / "twins.h5", {"a": images(30), "b": images(30)})
    data = load({**more, "train": twins})
    assert validation(data, 0) != validation(data, 1)


def test_without_a_test_file_a_fraction_is_kept(files: dict[str, Any]) -> None:
    data = load({**files, "test": 0.5})
    assert data.client_names == ("a", "b", "c")
    assert data.num_test_samples == (10, 0, 15)
    assert data.num_validation_samples == (2, 0, 3)
    assert data.num_train_samples == (9, 0, 12)
    seen = np.concatenate([part.x[:, 0, 0, 0] for part in data.samples[2]])
    assert sorted(seen) == list(range(30))
    default = {key: value for key, value in files.items() if key != "test"}
    assert load(default).num_test_samples == (4, 0, 6)


@pytest.mark.parametrize(
    ("field", "array", "expected"),
    [
        ("image", np.zeros((6, 5, 4, 3), np.uint8), (3, 5, 4)),
        ("pixels", np.zeros((6, 5, 4), np.float32), (1, 5, 4)),
        ("pixels", np.zeros((6, 9), np.float64), (9,)),
    ],
)
def test_layouts_of_samples(tmp_path: Path, field: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    array = np.arange(array.size).reshape(array.shape).astype(array.dtype)
    path = write(tmp_path / "train.h5", {"a": {field: array, "label": np.arange(6)}})
    data = load({"name": "federated_hdf5", "train": path, "test": 0, "validation": 0})
    train = data.samples[0].train
    assert data.input_shape == expected
    assert data.divisor == (255 if array.dtype == np.uint8 else 1)
    assert train.x.flags.c_contiguous
    read = np.moveaxis(train.x, 1, -1) if array.ndim == 4 else train.x.reshape(array.shape)
    assert np.array_equal(read, array)


def without(field: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in images(6).items() if name != field}


BROKEN: dict[str, tuple[Clients, str]] = {
    "no clients": ({}, r"problem\.dataset\.train: .*has no clients; the layout is examples/<client>/pixels"),
    "no pixels": ({"a": images(6), "b": without("pixels")}, "client 'b': no pixels"),
    "no pixels in the first": ({"a": without("pixels")}, "client 'a': no pixels"),
    "no label": ({"a": images(6), "b": without("label")}, "client 'b': no label"),
    "other shape": ({"a": images(6), "b": images(6, shape=(5, 5))}, r"client 'b': pixels are uint8 of shape \(5, 5\)"),
    "other type": (
        {"a": images(6), "b": images(6) | {"pixels": np.zeros((6, 5, 4))}},
        "client 'b': pixels are float64",
    ),
    "lengths": ({"a": images(6) | {"label": np.zeros(5, np.int64)}}, "6 pixels but 5 labels"),
    "integers": ({"a": images(6) | {"pixels": np.zeros((6, 5, 4), np.int32)}}, "pixels are int32; allowed are uint8"),
    "flat": ({"a": images(6) | {"pixels": np.zeros(6, np.uint8)}}, r"pixels have shape \(6,\); allowed"),
    "complex labels": ({"a": images(6) | {"label": np.zeros(6, complex)}}, "label is complex128"),
    "labels of numbers and classes": (
        {"a": images(6), "b": images(6) | {"label": np.zeros(6)}},
        "client 'b': label looks otherwise than that of client 'a'",
    ),
    "negative label": (
        {"a": images(6), "b": images(6) | {"label": np.array([0, 1, 2, 3, -1, 0])}},
        "client 'b': labels range from -1 to 3; allowed are 0 to 65535",
    ),
    "no pixels in an image": ({"a": images(6, shape=(5, 0))}, r"pixels have shape \(6, 5, 0\); a sample needs"),
    "no channel": ({"a": images(6, shape=(5, 4, 0))}, r"pixels have shape \(6, 5, 4, 0\); a sample needs"),
    "huge label of an unsigned type": (
        {"a": images(6) | {"label": np.full(6, 2**64 - 1, np.uint64)}},
        "labels range from 1",
    ),
    "huge label": ({"a": images(6) | {"label": np.full(6, 10**9)}}, "labels range from 1000000000"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_on_every_rank(tmp_path: Path, case: str) -> None:
    clients, message = BROKEN[case]
    keys = {"name": "federated_hdf5", "train": write(tmp_path / "train.h5", clients)}
    with pytest.raises(UserError, match=message):
        load(keys)

    def refused(communicator: Communicator) -> bool:
        with pytest.raises(UserError, match=message):
            load(keys, placement(communicator))
        return True

    assert on_ranks(2, refused) == [True, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_numbers_that_no_run_can_use(tmp_path: Path, bad: float, part: str) -> None:
    """In any part of any client, and 1e39 where the run computes in float32; told by all ranks, before any round."""
    clients = {
        name: {"pixels": np.random.default_rng(7).random((30, 5)), "label": np.arange(30) % 3} for name in "abcd"
    }
    keys = {"name": "federated_hdf5", "train": write(tmp_path / "good.h5", clients), "test": 0.3}
    single = replace(placement(), dtype=torch.float32)
    drawn = getattr(load(keys, single).samples[2], part).x[0]
    clients["c"]["pixels"][np.flatnonzero((clients["c"]["pixels"] == drawn).all(axis=1)), 3] = bad
    keys["train"] = write(tmp_path / "bad.h5", clients)
    words = rf"problem\.dataset\.train: .*bad\.h5, client 'c': 1 of its \d+ {part} samples have NaN, inf or a number"
    if bad == 1e39:
        load(keys)

    def refused(communicator: Communicator) -> bool:
        with pytest.raises(UserError, match=words):
            load(keys, replace(single, communicator=communicator))
        return True

    assert on_ranks(4, refused) == [True] * 4
    keys |= {"train": write(tmp_path / "good.h5", {"a": clients["a"]}), "test": keys["train"]}
    with pytest.raises(UserError, match=r"problem\.dataset\.test: .*bad\.h5, client 'c': 1 of its 30 test samples"):
        load(keys, single)


@pytest.mark.parametrize(("kept", "used"), [(">f4", "<f4"), (">f8", "<f8"), (">f2", "<f2"), ("g", "<f8")])
def test_byte_orders_and_widths_of_other_machines(tmp_path: Path, kept: str, used: str) -> None:
    """The same bits as a file of this machine, also where clients differ in the order of bytes alone."""
    random = np.random.default_rng(0)
    here = {name: {"pixels": random.random((9, 4)).astype(used), "label": np.arange(9, dtype="<i2")} for name in "ab"}
    there = {"a": {"pixels": here["a"]["pixels"].astype(kept), "label": here["a"]["label"].astype(">u4")}}
    keys = {"name": "federated_hdf5", "train": write(tmp_path / "here.h5", here)}
    wanted = load(keys)
    found = load({**keys, "train": write(tmp_path / "there.h5", {**here, **there})})
    for client in (0, 1):
        for one, other in zip(wanted.samples[client], found.samples[client], strict=True):
            assert one.x.dtype == other.x.dtype == np.dtype(used)
            assert one.x.tobytes() == other.x.tobytes()
            assert one.y.tobytes() == other.y.tobytes()


def test_the_order_of_creation_does_not_matter(tmp_path: Path) -> None:
    clients = {name: images(6, first) for first, name in enumerate(("b", "c", "a"))}
    with h5py.File(tmp_path / "tracked.h5", "w", track_order=True) as file:
        examples = file.create_group("examples", track_order=True)
        for name, fields in clients.items():
            for field, value in fields.items():
                examples[f"{name}/{field}"] = value
        assert list(examples) == ["b", "c", "a"]
    keys = {"name": "federated_hdf5", "train": write(tmp_path / "plain.h5", dict(sorted(clients.items())))}
    found, wanted = load({**keys, "train": str(tmp_path / "tracked.h5")}), load(keys)
    assert found.client_names == wanted.client_names == ("a", "b", "c")
    assert all(np.array_equal(found.samples[m].train.x, wanted.samples[m].train.x) for m in range(3))


@pytest.mark.parametrize(("chunks", "times"), [(None, 1), (True, 2)], ids=["side by side", "in chunks"])
def test_a_client_is_opened_once_for_the_layout_and_once_more_where_hdf5_is_to_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: bool | None, times: int
) -> None:
    """Whatever the number of clients: the cost of a start is linear in it."""
    opened: list[str] = []
    original = DataGroup._find
    monkeypatch.setattr(
        DataGroup, "_find", lambda self, name, where: opened.append(name) or original(self, name, where)
    )
    for number in (10, 40):
        path = write(tmp_path / f"{number}.h5", {f"client{m}": images(5, m) for m in range(number)}, chunks=chunks)
        opened.clear()
        load({"name": "federated_hdf5", "train": path})
        # examples, and the client whose fields say what samples are called
        assert len(opened) == 2 + times * 3 * number


def test_files_that_are_not_what_they_should_be(files: dict[str, Any], tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    with pytest.raises(UserError, match=r"problem\.dataset\.train: .*cannot be read as HDF5"):
        load({**files, "train": str(text)})
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(UserError, match="has no clients"):
        load({**files, "test": str(tmp_path / "other.h5")})
    other = write(tmp_path / "other_shape.h5", {"a": images(3, shape=(6, 6))})
    with pytest.raises(UserError, match=r"problem\.dataset\.test: .*must agree"):
        load({**files, "test": other})


@pytest.mark.parametrize(
    "keys",
    [
        {"train": "nowhere.h5"},
        {"test": "nowhere.h5"},
        {"test": 1.0},
        {"test": -0.1},
        {"test": True},
        {"validation": 1},
        {"test": 0.5, "validation": 0.5},
        {"fraction": 0.5},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(files: dict[str, Any], keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        load({**files, **keys})


@pytest.mark.parametrize("chunks", [None, True], ids=["side by side", "in chunks"])
@pytest.mark.parametrize(("clients_per_chunk", "expected"), [(1, {2, 3}), (4, {4, 5})])
def test_a_rank_reads_only_its_own_clients(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clients_per_chunk: int,
    expected: set[int],
    chunks: bool | None,
) -> None:
    clients = {f"client{m}": images(10 + m, 20 * m) for m in range(6)}
    path = write(tmp_path / "train.h5", clients, chunks=chunks)
    keys = {"name": "federated_hdf5", "train": path, "test": path}
    whole = load(keys)
    read: set[str] = set()
    by_hdf5, from_its_place = DataArray.read, DataGroup.read_at

    def recording(array: DataArray) -> np.ndarray:
        read.add(array.where.partition("client ")[2])
        return by_hdf5(array)

    def recording_place(group: DataGroup, place: int, shape: tuple[int, ...], dtype: Any, where: str) -> np.ndarray:
        read.add(where.partition("client ")[2])
        return from_its_place(group, place, shape, dtype, where)

    class RankOneOfThree(SoloCommunicator):
        rank = 1
        size = 3

    monkeypatch.setattr(DataArray, "read", recording)
    monkeypatch.setattr(DataGroup, "read_at", recording_place)
    mine = load(keys, placement(RankOneOfThree()), clients_per_chunk)
    assert set(mine.samples) == set(mine.clients) == expected
    assert read == {f"'client{m}', {field}" for m in expected for field in ("pixels", "label")}
    for name in ("client_names", "num_train_samples", "num_validation_samples", "num_test_samples", "input_shape"):
        assert getattr(mine, name) == getattr(whole, name)
    for client in expected:
        for one, other in zip(mine.samples[client], whole.samples[client], strict=True):
            assert np.array_equal(one.x, other.x)
            assert np.array_equal(one.y, other.y)


def test_ranks_share_the_samples_that_a_round_uses(tmp_path: Path) -> None:
    sizes = (60, 20, 20, 20)
    path = write(tmp_path / "train.h5", {f"client{m}": images(size, m) for m, size in enumerate(sizes)})
    keys = {"name": "federated_hdf5", "train": path, "test": path}

    class RankZeroOfTwo(SoloCommunicator):
        size = 2

    whole = placement(RankZeroOfTwo())
    assert load(keys, whole).clients == range(1)
    assert load(keys, replace(whole, samples_a_round=20)).clients == range(2)


def test_mnist20() -> None:
    if not os.environ.get("PPFL_DATA"):
        pytest.skip("mnist20 NOT TESTED: set PPFL_DATA to the folder of mnist20_train.h5 and mnist20_test.h5")
    data = load({"name": "federated_hdf5", "train": "mnist20_train.h5", "test": "mnist20_test.h5"})
    assert len(data.client_names) == 20
    assert sum(data.num_train_samples) + sum(data.num_validation_samples) == 52_492
    assert sum(data.num_test_samples) == 17_508
    assert data.input_shape == (1, 28, 28)
    assert all(part.x.dtype == np.uint8 for parts in data.samples.values() for part in parts)


DIGITS: dict[str, Any] = {"name": "digits", "partition": {"name": "dirichlet", "clients": 20, "alpha": 0.3}}


def test_digits_are_all_there_once() -> None:
    from sklearn.datasets import load_digits

    data = load(DIGITS)
    assert data.client_names == tuple(f"{m:02d}" for m in range(20))
    pieces = [part for parts in data.samples.values() for part in parts]
    got = np.concatenate([np.column_stack([part.x.reshape(-1, 64), part.y]) for part in pieces])
    pixels, labels = load_digits(return_X_y=True)
    wanted = np.column_stack([pixels, labels])
    assert np.array_equal(got[np.lexsort(got.T)], wanted[np.lexsort(wanted.T)])
    assert data.divisor == max(part.x.max(initial=0) for part in pieces) == 16
    for client, parts in data.samples.items():
        total = sum(len(part) for part in parts)
        assert len(parts.test) == int(0.2 * total) == data.num_test_samples[client]
        assert len(parts.validation) == int(0.1 * total) == data.num_validation_samples[client]
        assert len(parts.train) == data.num_train_samples[client] >= 1


@pytest.mark.parametrize("standardize", [True, False])
def test_breast_cancer_sorted_by_label(standardize: bool) -> None:
    """All samples once, pieces of 28 or 29; features have mean 0 and deviation 1 over what is trained on."""
    from sklearn.datasets import load_breast_cancer

    partition = {"name": "sorted", "clients": 20}
    data = load({"name": "breast_cancer", "partition": partition, "validation": 0, "standardize": standardize})
    assert [sum(map(len, data.samples[client])) for client in range(20)] == [29] * 9 + [28] * 11
    pieces = [part for parts in data.samples.values() for part in parts]
    x, y = (np.concatenate([getattr(part, name) for part in pieces]) for name in ("x", "y"))
    wanted, labels = load_breast_cancer(return_X_y=True)
    if standardize:
        trained = np.concatenate([parts.train.x for parts in data.samples.values()])
        np.testing.assert_allclose(trained.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(trained.std(axis=0), 1, rtol=1e-12)
        # the same map of all samples, whatever their part
        both = np.sort(x, axis=0)[[0, 100]], np.sort(wanted, axis=0)[[0, 100]]
        scale, shift = (both[0][1] - both[0][0]) / (both[1][1] - both[1][0]), np.sort(wanted, axis=0)[0]
        wanted = (wanted - shift) * scale + both[0][0]
    np.testing.assert_allclose(np.sort(x, axis=0), np.sort(wanted, axis=0), rtol=1e-9, atol=1e-9)
    assert sorted(y.tolist()) == sorted(labels.tolist())
    assert [set(parts.train.y.tolist()) for parts in data.samples.values()] == [{0}] * 7 + [{0, 1}] + [{1}] * 12


def test_digits_on_ranks_are_those_of_one_process() -> None:
    whole = load(DIGITS)
    parts = on_ranks(3, lambda communicator: load(DIGITS, placement(communicator)))
    assert [client for part in parts for client in part.clients] == list(range(20))
    for part in parts:
        assert part.num_train_samples == whole.num_train_samples
        for client, samples in part.samples.items():
            assert np.array_equal(samples.train.x, whole.samples[client].train.x)


@pytest.mark.parametrize(
    "keys",
    [
        {"partition": {"name": "iid", "clients": 1798}},
        {"partition": {"name": "shards", "clients": 900, "shards_per_client": 2}},
        {"partition": {"name": "iidd", "clients": 3}},
        {"partition": None},
        {"test": 0.6, "validation": 0.4},
    ],
    ids=str,
)
def test_impossible_settings_of_digits_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        load({**DIGITS, **keys})
