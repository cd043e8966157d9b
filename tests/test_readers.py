"""Readers of centralized sets: what is read of files of known content, and how test samples go with the others."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ppfl.config.run import Config
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent
from tests.examples.datasets.idx import idx
from tests.ranks import on_ranks
from tests.test_datasets import load, placement

ALL: dict[str, Any] = {"partition": {"name": "iid", "clients": 1}, "test": 0.0, "validation": 0.0}
"""Everything to one client, in the order of the file."""


def everything(keys: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    train = load({**ALL, **keys}).samples[0].train
    return train.x, train.y


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("compress", [False, True])
def test_idx_as_published(tmp_path: Path, compress: bool) -> None:
    x, y = pixels(30, 7, 5), pixels(30) % 10
    paths = [tmp_path / name for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")]
    for path, numbers in zip(paths, (x, y), strict=True):
        path.write_bytes(gzip.compress(idx(numbers)) if compress else idx(numbers))
    files = {"images": str(paths[0]), "labels": str(paths[1])}
    for transpose in (False, True):
        found, labels = everything({"name": "idx", "train": files, "transpose": transpose})
        assert found.dtype == np.uint8
        assert np.array_equal(found[:, 0], x.swapaxes(1, 2) if transpose else x)
        assert labels.tolist() == y.tolist()
    assert load({**ALL, "name": "idx", "train": files}).divisor == 255


@pytest.mark.parametrize(("code", "dtype"), [(0x0D, ">f4"), (0x0E, ">f8")])
def test_idx_of_other_types(tmp_path: Path, code: int, dtype: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(6, 4)).astype(dtype), np.array([0, 300, 2, 3, 4, 5], ">i4")
    (tmp_path / "x").write_bytes(bytes([0, 0, code, 2]) + np.array(x.shape, ">u4").tobytes() + x.tobytes())
    (tmp_path / "y").write_bytes(bytes([0, 0, 0x0C, 1]) + np.array(y.shape, ">u4").tobytes() + y.tobytes())
    keys = {"name": "idx", "train": {"images": str(tmp_path / "x"), "labels": str(tmp_path / "y")}}
    found, labels = everything(keys)
    assert np.array_equal(found, x)
    assert labels.tolist() == y.tolist()
    assert load({**ALL, **keys}).divisor == 1


@pytest.mark.parametrize("label", ["label", "coarse_label"])
def test_cifar_100_as_published(tmp_path: Path, label: str) -> None:
    images, coarse, fine = pixels(12, 3, 32, 32), pixels(12) % 20, pixels(12) % 100
    records = [bytes([c, f]) + image.tobytes() for c, f, image in zip(coarse, fine, images, strict=True)]
    (tmp_path / "train.bin").write_bytes(b"".join(records))
    keys = {"name": "cifar_binary", "train": [str(tmp_path / "train.bin")], "classes": 100, "label": label}
    x, y = everything(keys)
    assert np.array_equal(x, images)
    assert y.tolist() == (fine if label == "label" else coarse).tolist()
    for field, values in (("coarse_label", coarse), ("label", fine)):
        groups = load({**ALL, **keys, "partition": {"name": "by_field", "field": field}})
        assert groups.client_names == tuple(f"{group:02d}" for group in np.unique(values))
        assert list(groups.num_train_samples) == [(values == group).sum() for group in np.unique(values)]


def test_cifar_10_in_several_files(tmp_path: Path) -> None:
    images, labels, names = pixels(10, 3, 32, 32), pixels(10) % 10, []
    for number in range(5):
        names.append(str(tmp_path / f"data_batch_{number + 1}.bin"))
        rows = range(2 * number, 2 * number + 2)
        Path(names[-1]).write_bytes(b"".join(bytes([labels[row]]) + images[row].tobytes() for row in rows))
    x, y = everything({"name": "cifar_binary", "train": names, "classes": 10})
    assert np.array_equal(x, images)
    assert y.tolist() == labels.tolist()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("x", "seen"),
    [
        (pixels(8, 4, 5), lambda x: x[:, None]),
        (pixels(8, 4, 5, 3), lambda x: x.transpose(0, 3, 1, 2)),
        (np.asfortranarray(pixels(8, 6)), lambda x: x),
        (np.linspace(-1, 1, 48).reshape(8, 6).astype(">f4"), lambda x: x),
    ],
)
def test_npz_of_any_layout(tmp_path: Path, x: np.ndarray, seen: Any, compress: bool) -> None:
    y = np.arange(8) % 3
    (np.savez_compressed if compress else np.savez)(tmp_path / "data.npz", images=x, target=y)
    train = {"file": str(tmp_path / "data.npz"), "x": "images", "y": "target"}
    found, labels = everything({"name": "npz", "train": train})
    assert found.dtype == x.dtype.newbyteorder("=")
    assert np.array_equal(found, seen(x))
    assert labels.tolist() == y.tolist()


@pytest.mark.parametrize("y", [np.linspace(0, 1, 8), np.linspace(0, 1, 16).reshape(8, 2)])
def test_npz_of_labels_that_are_numbers(tmp_path: Path, y: np.ndarray) -> None:
    np.savez(tmp_path / "data.npz", x=np.eye(8), y=y)
    data = load({**ALL, "name": "npz", "train": {"file": str(tmp_path / "data.npz")}})
    assert data.label_shape == y.shape[1:]
    assert np.array_equal(data.samples[0].train.y, y)


@pytest.mark.parametrize(
    ("who", "names"),
    [(np.array(["b", "a"] * 4), ("a", "b")), (np.array([10, 9, 10, 10, 2, 2, 9, 10]), ("02", "09", "10"))],
)
def test_npz_whose_array_names_the_clients(tmp_path: Path, who: np.ndarray, names: tuple[str, ...]) -> None:
    np.savez(tmp_path / "data.npz", x=np.eye(8), y=np.zeros(8, np.int64), who=who)
    data = load({
        **ALL, "name": "npz", "train": {"file": str(tmp_path / "data.npz")},
        "partition": {"name": "by_field", "field": "who"},
    })  # fmt: skip
    assert data.client_names == names
    for client, value in enumerate(np.unique(who)):
        assert np.array_equal(data.samples[client].train.x, np.eye(8)[who == value])


def libsvm(path: Path, text: str) -> str:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.mark.parametrize("name", ["data.svm", "data.svm.gz"])
def test_libsvm(tmp_path: Path, name: str) -> None:
    path = libsvm(tmp_path / name, "+1 1:0.5 4:-2 # a comment\n\n-1 2:1e-3\n3\n")
    x, y = everything({"name": "libsvm", "train": path})
    assert np.array_equal(x, [[0.5, 0, 0, -2], [0, 1e-3, 0, 0], [0, 0, 0, 0]])
    assert y.tolist() == [1, 0, 2]
    assert everything({"name": "libsvm", "train": path, "features": 4})[0].tobytes() == x.tobytes()
    x, y = everything({"name": "libsvm", "train": path, "labels": "numbers", "features": 6})
    assert x.shape == (3, 6)
    assert y.tolist() == [1, -1, 3]


CSV = 'age,work,city,income\n30,clerk,Rome,high\n41.5,farmer,Oslo,low\n\n 28 ,clerk,"Ulm, old",high\n'


def table(path: Path, text: str = CSV, encoding: str = "utf-8", **keys: Any) -> dict[str, Any]:
    path.write_bytes(text.encode(encoding))
    return {"name": "table", "train": str(path), "label": "income", "categorical": ["work"], **keys}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_in_csv(tmp_path: Path, encoding: str) -> None:
    keys = table(tmp_path / "t.csv", encoding=encoding, categorical=["city", "work"])
    x, y = everything(keys)
    # age; clerk, farmer; Oslo, Rome, Ulm
    assert x.tolist() == [[30, 1, 0, 0, 1, 0], [41.5, 0, 1, 1, 0, 0], [28, 1, 0, 0, 0, 1]]
    assert y.tolist() == [0, 1, 0]
    x, _ = everything({**keys, "features": ["age"], "categorical": []})
    assert x.tolist() == [[30], [41.5], [28]]
    by_city = load({**ALL, **keys, "categorical": ["work"], "partition": {"name": "by_field", "field": "city"}})
    assert by_city.client_names == ("Oslo", "Rome", "Ulm, old")
    assert by_city.samples[0].train.x.tolist() == [[41.5, 0, 1]]
    text = CSV.replace("high", "2.5").replace("low", "-1")
    numbers = table(tmp_path / "n.csv", text, labels="numbers", features=["age"], categorical=[])
    assert everything(numbers)[1].tolist() == [2.5, -1, 2.5]
    other = table(tmp_path / "s.csv", "a;income\n1;3\n2;10\n3;3\n", categorical=[], delimiter=";")
    assert everything(other)[1].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("train", "test", "classes"),
    [
        (["10", "9", "10"], ["9.0", "10"], [0, 1]),
        (["10", "9", "x"], ["9", "10"], [1, 0]),
        (["1_0", "10", "9"], ["9", "1_0", "10"], [2, 1, 0]),
        (["nan", "1", "x"], ["x", "nan"], [2, 1]),
    ],
    ids=["numbers", "one text", "no number for all", "nan among texts"],
)
def test_classes_are_numbered_as_numbers_where_all_to_train_on_are(
    tmp_path: Path, train: list[str], test: list[str], classes: list[int]
) -> None:
    keys = table(tmp_path / "t.csv", "\n".join(["age,income", *(f"1,{label}" for label in train)]), categorical=[])
    of_test = table(tmp_path / "u.csv", "\n".join(["age,income", *(f"1,{label}" for label in test)]))["train"]
    assert load({**ALL, **keys, "test": of_test}).samples[0].test.y.tolist() == classes


def test_parquet_and_csv_are_the_same_samples(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="Parquet NOT TESTED: install pyarrow")
    from pyarrow import parquet

    draw, size = np.random.default_rng(0), 40_000
    columns: dict[str, Any] = {
        "age": draw.normal(size=size), "work": draw.choice(["clerk", "farmer"], size), "n": draw.integers(0, 9, size),
        "flag": draw.random(size) < 0.5, "income": draw.integers(-1, 3, size),
    }  # fmt: skip
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    lines = [",".join(columns)]
    lines += [",".join(str(float(v)) if isinstance(v, bool | np.bool_) else str(v) for v in row)
              for row in zip(*columns.values(), strict=True)]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(lines))
    keys = {"name": "table", "label": "income", "categorical": ["work"]}
    found = [everything({**keys, "train": str(tmp_path / f"t.{kind}")}) for kind in ("csv", "parquet")]
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()


def test_standardized_by_what_is_trained_on(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [f"{draw.normal(5, 3)},7,{draw.choice(['a', 'b'])},{draw.integers(0, 2)}" for _ in range(200)]
    text = "\n".join(["u,constant,word,income", *rows])
    keys = table(tmp_path / "t.csv", text, categorical=["word"])
    keys |= {"partition": {"name": "dirichlet", "clients": 5, "alpha": 1.0}, "test": 0.3, "validation": 0.2}
    plain, scaled = load(keys), load({**keys, "standardize": True})
    u = np.concatenate([parts.train.x[:, 0] for parts in plain.samples.values()])
    for client, parts in scaled.samples.items():
        for mine, others in zip(parts, plain.samples[client], strict=True):
            np.testing.assert_allclose(mine.x[:, 0], (others.x[:, 0] - u.mean()) / u.std(), rtol=1e-12)
            assert not mine.x[:, 1].any()
            assert np.array_equal(mine.x[:, 2:], others.x[:, 2:])
    for part in on_ranks(3, lambda communicator: load({**keys, "standardize": True}, placement(communicator))):
        for client, parts in part.samples.items():
            assert parts.train.x.tobytes() == scaled.samples[client].train.x.tobytes()


def test_columns_that_do_not_vary_are_zeros_when_they_are_standardized(tmp_path: Path) -> None:
    """The mean of 0.1, 0.1, 0.1 is another number than 0.1; squares of 1e-300 are no numbers."""
    text = "\n".join(["same,small,income", *(f"0.1,{number}e-300,1" for number in (1, 2, 3))])
    keys = table(tmp_path / "t.csv", text, categorical=[], standardize=True)
    other = table(tmp_path / "u.csv", "same,small,income\n2.1,0,1\n")["train"]
    data = load({**ALL, **keys, "test": other})
    assert not data.samples[0].train.x[:, 0].any()
    assert np.isfinite(data.samples[0].train.x).all()
    assert data.samples[0].test.x[0, 0] == 2.1 - 0.1


@pytest.mark.parametrize(
    "partition",
    [
        {"name": "dirichlet", "clients": 6, "alpha": 0.3},
        {"name": "shards", "clients": 5, "shards_per_client": 2},
        {"name": "label_quantity", "clients": 5, "labels_per_client": 2},
        {"name": "by_size", "clients": 5, "sizes": "power_law"},
    ],
    ids=lambda partition: partition["name"],
)
def test_clients_are_tested_on_their_own_mixture_of_classes(tmp_path: Path, partition: dict[str, Any]) -> None:
    files = {}
    for part, size in (("train", 600), ("test", 200)):
        for name, numbers in (("images", pixels(size, 3, 3)), ("labels", np.arange(size, dtype=np.uint8) % 5)):
            (tmp_path / f"{part}-{name}").write_bytes(idx(numbers))
        files[part] = {name: str(tmp_path / f"{part}-{name}") for name in ("images", "labels")}
    data = load({"name": "idx", **files, "partition": partition, "validation": 0.0})
    assert sum(data.num_train_samples) == 600
    assert sum(data.num_test_samples) == 200
    for parts in data.samples.values():
        of_train, of_test = (np.bincount(part.y, minlength=5) for part in (parts.train, parts.test))
        assert np.all(np.abs(of_test - of_train / 3) <= 1)


DATA = os.environ.get("PPFL_DATA", "")
NEEDS_A9A = pytest.mark.skipif(
    not (Path(DATA) / "a9a.svm.gz").is_file(), reason="a9a NOT TESTED: set PPFL_DATA to the folder of a9a.svm.gz"
)
A9A = {"name": "libsvm", "train": "a9a.svm.gz"}
SORTED = {"name": "shards", "clients": 20, "shards_per_client": 1}


@NEEDS_A9A
def test_a9a_is_what_was_published() -> None:
    x, y = everything(A9A)
    assert x.shape == (32_561, 123)
    assert set(np.unique(x)) == {0, 1}
    assert np.bincount(y).tolist() == [24_720, 7_841]


@NEEDS_A9A
def test_a9a_sorted_by_label_has_the_same_bits_on_ranks(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = Config.model_validate({
        "name": "a9a", "rounds": 3, "evaluate": {"every": 3},
        "problem": {
            "name": "supervised", "dataset": {**A9A, "partition": SORTED}, "model": {"name": "logistic_regression"},
            "split": {"local": ["head.bias"]}, "batch_size": 64,
        },
        "algorithm": {"name": "ffgg", "lr": 0.5, "fine_tuner": {"name": "sgd", "lr": 0.5, "batch_size": 64}},
    })  # fmt: skip
    arrays: list[dict[str, np.ndarray]] = []
    for number in (1, 2, 3):
        out = tmp_path / f"{number}.h5"
        on_ranks(number, lambda communicator, out=out: run(config, out, Silent(), communicator))
        with h5py.File(out) as file:
            arrays.append({f"{group}/{name}": file[group][name][()] for group in file for name in file[group]})
    histogram = arrays[0]["clients/label_histogram"]
    assert histogram.sum() == 32_561
    assert (histogram > 0).all(axis=1).sum() <= 1
    for others in arrays[1:]:
        assert list(others) == list(arrays[0])
        for name, values in others.items():
            if "seconds" not in name and values.dtype != object:
                assert values.tobytes() == arrays[0][name].tobytes(), name


def test_the_content_of_all_files_is_part_of_the_digest(tmp_path: Path) -> None:
    digests = []
    for first, second in ((0, 0), (1, 0), (0, 1)):
        for name, label in (("one", first), ("two", second)):
            (tmp_path / name).write_bytes(bytes([label]) + bytes(3072))
        config = {
            "name": "digest", "rounds": 1, "algorithm": {"name": "fedavg", "lr": 0.1, "epochs": 1, "batch_size": 4},
            "problem": {
                "name": "supervised", "model": {"name": "logistic_regression"}, "split": {"local": []},
                "batch_size": "all", "dataset": {
                    "name": "cifar_binary", "train": [str(tmp_path / "one"), str(tmp_path / "two")], "classes": 10,
                    "partition": {"name": "iid", "clients": 2},
                },
            },
        }  # fmt: skip
        digests.append(Config.model_validate(config).digest)
    assert len(set(digests)) == 3
