"""What readers of centralized sets refuse: one line that names the file, what is wrong, and what is allowed."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ppfl.core import host_memory
from ppfl.core.agree import SharedUserError
from ppfl.core.errors import UserError
from ppfl.datasets import _data_bytes
from tests.examples.datasets.idx import idx
from tests.ranks import on_ranks
from tests.test_datasets import load, placement
from tests.test_readers import ALL, CSV, libsvm, pixels, table


def refused(keys: dict[str, Any], message: str) -> None:
    """Expect an error that begins with the key of the configuration and says so, on one rank and on two."""
    with pytest.raises(UserError, match=rf"^problem\.dataset\.(?s:.*){message}") as caught:
        load({**ALL, **keys})
    assert len(caught.value.lines) == 1

    def on_rank(communicator: Any) -> bool:
        with pytest.raises(SharedUserError, match=message):
            load({**ALL, **keys}, placement(communicator))
        return True

    assert on_ranks(2, on_rank) == [True, True]


def words(value: object) -> str:
    """Return the id of a case: bytes are none that anybody could read."""
    return value if isinstance(value, str) and "\n" not in value else ""


X, Y = pixels(6, 3, 3), pixels(6) % 3
NEGATIVE = np.array([0, 1, -1, 0, 0, 0], ">i4").tobytes()
HUGE = bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 20, 1 << 12, 1 << 12)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", idx(Y), "train.images: .*should have 2 bytes here, more than the file"),
        (idx(X)[:-1], idx(Y), "train.images: .*(more than the file can hold|1 bytes too early)"),
        (idx(X) + b"\0", idx(Y), "goes on after its last entry"),
        (b"\x89PNG....", idx(Y), "begins with 8950"),
        (HUGE, idx(Y), "should have 17,592,186,044,416 bytes here, more than the file can hold"),
        (gzip.compress(HUGE), idx(Y), "should have 17,592,186,044,416 bytes here, more than the file can hold"),
        (gzip.compress(idx(X))[:-9], idx(Y), "cannot be read: "),
        (gzip.compress(idx(X))[:-8] + bytes(8), idx(Y), "cannot be read: CRC check failed"),
        (idx(X), idx(Y[:5]), "6 samples but 5 labels"),
        (idx(X), idx(X), r"label is uint8 of shape \(6, 3, 3\)"),
        (idx(X[:0]), idx(Y[:0]), "has no samples"),
        (idx(Y), idx(Y), r"samples have shape \(6,\)"),
        (
            idx(X),
            bytes([0, 0, 0x0C, 1, 0, 0, 0, 6]) + NEGATIVE,
            "range from -1 to 1",
        ),
    ],
    ids=words,
)
def test_idx(tmp_path: Path, images: bytes, labels: bytes, message: str) -> None:
    for name, content in (("x", images), ("y", labels)):
        (tmp_path / name).write_bytes(content)
    refused({"name": "idx", "train": {"images": str(tmp_path / "x"), "labels": str(tmp_path / "y")}}, message)


def test_test_files_must_look_like_the_others(tmp_path: Path) -> None:
    for name, content in (("x", idx(X)), ("y", idx(Y)), ("z", idx(X[:, :2]))):
        (tmp_path / name).write_bytes(content)
    files = {"images": str(tmp_path / "x"), "labels": str(tmp_path / "y")}
    refused({"name": "idx", "train": files, "test": {**files, "images": str(tmp_path / "z")}}, "they must agree")


@pytest.mark.parametrize(
    ("content", "classes", "message"),
    [
        (b"", 10, "has 0 bytes; the binary version of CIFAR-10 has 3073 an image"),
        (bytes(3074), 10, "has 3,074 bytes"),
        (bytes(3073), 100, "CIFAR-100 has 3074 an image"),
        (bytes(3073) + bytes([10]) + bytes(3072), 10, "image 1 has label 10; allowed are 0 to 9"),
        (bytes([20, 3]) + bytes(3072), 100, "image 0 has coarse_label 20; allowed are 0 to 19"),
    ],
    ids=words,
)
def test_cifar(tmp_path: Path, content: bytes, classes: int, message: str) -> None:
    (tmp_path / "data.bin").write_bytes(content)
    refused({"name": "cifar_binary", "train": [str(tmp_path / "data.bin")], "classes": classes}, message)


def npy(array: np.ndarray, header: dict[str, Any] | None = None) -> bytes:
    """Return an array as NumPy stores it, with another header where one is given."""
    if header is None:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        return file.getvalue()
    text = repr(header).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array.tobytes()


def npz(path: Path, members: dict[str, bytes], **how: Any) -> dict[str, Any]:
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return {"name": "npz", "train": {"file": str(path)}}


HEADER = {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
FEATURES, LABELS = npy(np.eye(4)), npy(np.arange(4))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x": FEATURES}, "y: is no array of this file; allowed: x"),
        ({"x": npy(np.array([{}], dtype=object)), "y": LABELS}, "x: holds object; allowed are .* no objects"),
        (
            {"x": npy(np.eye(4), HEADER), "y": LABELS},
            "x: should have 8,796,093,022,208 bytes here, more than",
        ),
        ({"x": FEATURES[:-1], "y": LABELS}, "x: (ends 1 bytes too early|should have)"),
        ({"x": FEATURES + b"\0", "y": LABELS}, "x: goes on after its last entry"),
        ({"x": b"no array", "y": LABELS}, "x: is no array in an NPZ file: "),
        ({"x": FEATURES, "y": npy(np.arange(3))}, "4 samples but 3 labels"),
        ({"x": npy(np.eye(4, dtype=np.int32)), "y": LABELS}, "samples are int32; allowed are uint8 and floating point"),
        ({"x": npy(np.eye(4) * np.nan), "y": LABELS}, "sample 0 has a number that is NaN"),
        (
            {"x": FEATURES, "y": npy(np.array([0, 1, 2, 2**63], np.uint64))},
            "labels range from 0 to 92233720368547758",
        ),
        ({"x": FEATURES, "y": npy(np.array([0, 1, np.inf, 0]))}, "sample 2 has a label that is NaN, inf"),
    ],
    ids=words,
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_npz(tmp_path: Path, members: dict[str, bytes], message: str, compression: int) -> None:
    refused(npz(tmp_path / "data.npz", members, compression=compression), message)


def test_npz_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(FEATURES)
    refused({"name": "npz", "train": {"file": str(tmp_path / "data.npz")}}, "is no array in an NPZ file")
    packed = npz(tmp_path / "packed.npz", {"x": FEATURES, "y": LABELS}, compression=zipfile.ZIP_BZIP2)
    refused(packed, "x: is encrypted or compressed in an unknown way")
    with_clients = npz(tmp_path / "clients.npz", {"x": FEATURES, "y": LABELS, "who": npy(np.eye(4))})
    refused({**with_clients, "partition": {"name": "by_field", "field": "who"}}, "must hold an integer or a text")
    refused({**with_clients, "partition": {"name": "by_field", "field": "whom"}}, "whom: is no array of this file")


@pytest.mark.parametrize(
    ("who", "message"),
    [
        (np.array(["", "a", "b", "c"]), "has ''; a name must have a character"),
        (np.array(["a\0b", "a", "b", "c"]), "has 'a.x00b'; a name must have a character, and none that is zero"),
        (np.array(["\ud800", "a", "b", "c"]), "who: has texts that are none in Unicode"),
        (np.array([0x110000, 97, 98, 99], "<u4").view("<U1"), "who: has texts that are none in Unicode"),
    ],
    ids=["empty", "zero", "half a character", "no character"],
)
def test_npz_with_names_that_no_result_can_hold(tmp_path: Path, who: np.ndarray, message: str) -> None:
    keys = npz(tmp_path / "data.npz", {"x": FEATURES, "y": LABELS, "who": npy(who)})
    refused({**keys, "partition": {"name": "by_field", "field": "who"}}, message)


def test_an_object_is_never_made(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return (Path.touch, (tmp_path / "sprung",))

    members = {"x": npy(np.array([Trap()], dtype=object)), "y": LABELS}
    refused(npz(tmp_path / "data.npz", members), "no objects")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("", {}, "is empty; the first line"),
        ("age,work,city,income\n", {}, "has no samples"),
        (CSV.replace("41.5", ""), {}, "line 3, column 'age': has no value"),
        (CSV.replace("41.5", "nan"), {}, "line 3, column 'age': is 'nan'; a finite number is needed"),
        (CSV.replace("41.5", "1_0"), {}, "line 3, column 'age': is '1_0'; a finite number"),
        (CSV.replace("farmer", ""), {}, "line 3, column 'work': has no value"),
        (CSV.replace(",low", ","), {}, "line 3, column 'income': has no value"),
        (CSV.replace("farmer", "far\0mer"), {}, "line 3, column 'work': has a character that is zero"),
        (CSV.replace(",low", ""), {}, "line 3: has 3 cells; the table has 4 columns"),
        (CSV.replace("work", "age"), {}, "the name 'age' of a column is empty or there twice"),
        (CSV.replace("Rome", '"Rome'), {}, "is no line of a table"),
        (CSV, {"categorical": ["work"]}, "column 'city': is 'Rome'; a finite number is needed, or the column among"),
        (CSV, {"label": "wage"}, r"label: 'wage' is no column of .*allowed are age, work, city, income"),
        (CSV, {"features": ["age", "size"], "categorical": []}, "features: 'size' is no column"),
        (CSV, {"labels": "numbers", "categorical": ["work", "city"]}, "column 'income': is 'high'"),
        (CSV, {"partition": {"name": "by_field", "field": "who"}}, "partition.field: 'who' is no column"),
        (CSV, {"partition": {"name": "by_field", "field": "age"}, "features": ["age"], "categorical": []},
         "partition.field: 'age' is a column of numbers"),
        ("income\n1\n", {"categorical": []}, "has no column beside the label"),
        (CSV, {"partition": {"name": "iid", "clients": 4}}, "needs at least 4 samples"),
    ],
)  # fmt: skip
def test_tables(tmp_path: Path, text: str, keys: dict[str, Any], message: str) -> None:
    refused({**table(tmp_path / "t.csv", text), "categorical": ["work", "city"], **keys}, message)


def test_a_label_that_is_no_number_among_numbers(tmp_path: Path) -> None:
    text = CSV.replace("low", "1").replace("high", "NaN")
    refused(table(tmp_path / "t.csv", text, categorical=["work", "city"]), "the label of sample [0-9]+ is NaN, among")


def test_tables_that_are_no_text(tmp_path: Path) -> None:
    latin = table(tmp_path / "t.csv", CSV.replace("Oslo", "Ålesund"), "latin-1", categorical=["work", "city"])
    refused(latin, "line 3: is no text in UTF-8")
    refused(table(tmp_path / "u.csv", "PAR1 and no more"), "cannot be read as Parquet|which pyarrow reads")


def test_a_test_table_that_does_not_match(tmp_path: Path) -> None:
    keys = table(tmp_path / "t.csv", categorical=["work", "city"])
    for text, message in (
        (CSV.replace("farmer", "smith"), "column 'work': has 'smith'; the samples to train on have clerk, farmer"),
        (CSV.replace("low", "lower"), "the label of sample 1 is 'lower'; the samples to train on have 'high', 'low'"),
        (CSV.replace("low", "7"), "the label of sample 1 is '7'; the samples to train on have 'high', 'low'"),
        (CSV.replace("age", "years"), "the features are years, work, city, those in .* are age, work, city"),
    ):
        refused({**keys, "test": table(tmp_path / "u.csv", text)["train"]}, message)


def test_a_test_table_whose_labels_are_no_numbers(tmp_path: Path) -> None:
    train = CSV.replace("high", "1").replace("low", "2")
    keys = table(tmp_path / "t.csv", train, categorical=["work", "city"])
    for other, said in (("low", "'low'"), ("nan", "'nan'"), ("3", "3")):
        test = table(tmp_path / "u.csv", CSV.replace("high", "1.0").replace("low", other))["train"]
        refused({**keys, "test": test}, f"the label of sample 1 is {said}; the samples to train on have 1, 2")


def test_what_standardizing_makes_of_numbers_is_finite_too(tmp_path: Path) -> None:
    keys = table(tmp_path / "t.csv", "age,income\n" + "1e308,1\n" * 5 + "-1e308,0\n", categorical=[])
    refused({**keys, "standardize": True}, "t.csv, standardized: sample 0 has a number that is NaN, inf")


def test_a_long_text_among_many_is_refused_before_all_are_as_wide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CSV + "1,clerk,Rome,high\n" * 200 + f"1,{'w' * 500},Rome,high\n"
    monkeypatch.setattr(_data_bytes, "free_host_bytes", lambda: 200_000.0)
    refused(
        table(tmp_path / "t.csv", text, categorical=["work", "city"]),
        "column 'work', as wide as its longest text: needs 408,000 bytes",
    )


def test_parquet_with_missing_values_and_other_types(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="Parquet NOT TESTED: install pyarrow")
    from pyarrow import parquet

    for columns, message in (
        ({"age": [1.0, None], "income": ["a", "b"]}, "row 1, column 'age': has no value"),
        ({"age": [1.0, 2.0], "income": ["a", None]}, "row 1, column 'income': has no value"),
        ({"age": [1.0, float("nan")], "income": ["a", "b"]}, "row 1, column 'age': is nan; a finite number"),
        ({"age": ["x", "y"], "income": ["a", "b"]}, "column 'age': is string; a column of numbers is needed"),
        ({"age": [1, 2], "income": [0.5, 1.5]}, "row 0, column 'income': is '0.5'; a text .*or an integer"),
        ({"age": [1, 2], "income": ["a", "b\0c"]}, "row 1, column 'income': is 'b.x00c'; a text without characters"),
    ):
        parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
        refused({"name": "table", "train": str(tmp_path / "t.parquet"), "label": "income"}, message)


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("", {}, "is no LIBSVM text|has no samples|no sample has a feature"),
        ("1\n2\n", {}, "no sample has a feature"),
        ("1 0:2\n", {}, "is no LIBSVM text: Invalid index 0"),
        ("1 2:1 1:1\n", {}, "should be sorted and unique"),
        ("1 2:a\n", {}, "is no LIBSVM text"),
        ("age,work\n", {}, "is no LIBSVM text"),
        ("1 1000000000:1\n1 1:1\n" * 1000, {}, "2000 samples of 1000000000 features: needs"),
        ("1 99999999999999999999:1\n", {}, "is no LIBSVM text"),
        ("1 7:1\n", {"features": 6}, "has a feature with the index 7; allowed are 1 to 6"),
        ("1 1:nan\n", {}, "sample 0 has a number that is NaN"),
        ("nan 1:1\n", {"labels": "numbers"}, "sample 0 has a label that is NaN"),
        ("1 1:1\n-inf 1:1\n", {}, "the label of sample 1 is -inf; every sample needs one"),
        ("1.5 1:1\n2.5 1:1\n", {"labels": "numbers", "partition": {"name": "dirichlet", "clients": 1, "alpha": 1.0}},
         "partition: the partition dirichlet is for classes"),
    ],
)  # fmt: skip
def test_libsvm(tmp_path: Path, text: str, keys: dict[str, Any], message: str) -> None:
    refused({"name": "libsvm", "train": libsvm(tmp_path / "data.svm", text), **keys}, message)


def test_a_libsvm_file_to_test_on_that_does_not_match(tmp_path: Path) -> None:
    keys = {"name": "libsvm", "train": libsvm(tmp_path / "data.svm", "1 1:1 3:1\n-1 2:1\n")}
    for text, message in (
        ("1 4:1\n", "has a feature with the index 4; allowed are 1 to 3"),
        ("1 1:1\n2 1:1\n", "the label of sample 1 is 2; the samples to train on have -1, 1"),
    ):
        refused({**keys, "test": libsvm(tmp_path / "test.svm", text)}, rf"test: .*{message}")


def test_more_than_memory_holds_is_refused_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(idx(np.zeros((1000, 100, 100), np.uint8))))
    (tmp_path / "y").write_bytes(idx(np.zeros(1000, np.uint8)))
    monkeypatch.setattr(_data_bytes, "free_host_bytes", lambda: 10_000.0)
    files = {"images": str(tmp_path / "x"), "labels": str(tmp_path / "y")}
    refused({"name": "idx", "train": files}, "needs 10,000,000 bytes; 5,000 of the free memory may be used")
    text = "1 1:1\n" * 1000
    refused({"name": "libsvm", "train": libsvm(tmp_path / "a.svm.gz", text)}, "more text than the free memory holds")
    text = CSV + "1,clerk,Rome,high\n" * 200
    refused(table(tmp_path / "t.csv", text, categorical=["work", "city"]), "more text than the free memory holds")


def test_ranks_of_a_host_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads all samples: what one rank may take, each of two may not."""
    (tmp_path / "meminfo").write_text("MemAvailable: 4000 kB\n")
    monkeypatch.setattr(host_memory, "_PROC", tmp_path)
    (tmp_path / "x").write_bytes(idx(np.zeros((6, 500, 500), np.uint8)))
    (tmp_path / "y").write_bytes(idx(Y))
    files = {"images": str(tmp_path / "x"), "labels": str(tmp_path / "y")}
    keys = {**ALL, "name": "idx", "train": files}
    assert load(keys).num_train_samples == (6,)

    def on_rank(communicator: Any) -> bool:
        with pytest.raises(SharedUserError, match="needs 1,500,000 bytes; 1,024,000 of the free memory may be used"):
            load(keys, placement(communicator))
        return True

    assert on_ranks(2, on_rank) == [True, True]
    assert host_memory.free_host_bytes() == 4000 * 1024


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_data_bytes, "_MAX_LINE_BYTES", 1000)
    refused({"name": "libsvm", "train": libsvm(tmp_path / "a.svm.gz", "1" * 2000)}, "a line has more than 1,000 bytes")
    refused(table(tmp_path / "t.csv", "1" * 2000), "a line has more than 1,000 bytes")


@pytest.mark.parametrize("name", ["idx", "cifar_binary", "libsvm"])
def test_files_without_fields_name_no_clients(tmp_path: Path, name: str) -> None:
    from tests import examples

    dataset = examples.make("datasets", name, partition={"name": "by_field", "field": "who"})
    with pytest.raises(
        UserError, match=r"^problem\.dataset\.partition\.field: is 'who'; .* has no such field; allowed: "
    ):
        dataset.load(placement(), 1)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("idx", {"test": 1.0}),
        ("idx", {"test": "test-images"}),
        ("idx", {"train": "train-labels"}),
        ("idx", {"test": 0.5, "validation": 0.5}),
        ("cifar_binary", {"train": []}),
        ("cifar_binary", {"classes": 20}),
        ("cifar_binary", {"label": "coarse_label"}),
        ("npz", {"train": {"file": "train.npz", "z": "z"}}),
        ("npz", {"train": {"file": "nowhere.npz"}}),
        ("table", {"categorical": ["income"]}),
        ("table", {"features": ["age", "age"], "categorical": []}),
        ("table", {"features": ["age"]}),
        ("table", {"features": []}),
        ("table", {"delimiter": ", "}),
        ("libsvm", {"features": 0}),
        ("libsvm", {"labels": "both"}),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(name: str, keys: dict[str, Any]) -> None:
    from tests import examples

    with pytest.raises(ValidationError):
        examples.make("datasets", name, **keys)
