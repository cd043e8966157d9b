"""Data files as they come: nothing outside of the file is read, and what is wrong is one line, whoever reads it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ppfl.core.errors import UserError
from ppfl.interfaces.data_hdf5 import open_data
from ppfl.results.reader import open_result
from tests.fuzz.data import KINDS

PLACES = {
    # top group, client, array
    "federated": ("examples", "examples/bob", "examples/bob/label"),
    "federated, flat": ("offsets", "client", "label"),
    "texts": ("examples", "examples/bob", "examples/bob/snippets"),
    "quadratic": ("clients", "clients/bob", "clients/bob/A"),
    "trace": ("arrivals", "arrivals", "arrivals/client"),
    "replay": ("arrivals", "arrivals", "arrivals/version"),
}
READERS = {kind.name: kind for kind in KINDS if kind.name in PLACES}
STORED_OTHERWISE = {
    "federated, chunks",
    "federated, flat, chunks",
    "texts, chunks",
    "texts, latest",
    "texts of fixed length",
    "replay of losses",
    "bandwidths",
    *(f"{reader}, {part}.h5" for reader in ("federated_hdf5", "text_hdf5") for part in ("train", "test")),
}
"""Kinds of files that readers of others read."""
Damage = Callable[[h5py.File, str], None]


def external(file: h5py.File, place: str) -> None:
    file[place] = h5py.ExternalLink("other.h5", f"/{place}")


def through_an_external_link(file: h5py.File, place: str) -> None:
    file["other"] = h5py.ExternalLink("other.h5", "/")
    file[place] = h5py.SoftLink(f"/other/{place}")


def through_two_soft_links(file: h5py.File, place: str) -> None:
    file["other"] = h5py.ExternalLink("other.h5", f"/{place}")
    file["another"] = h5py.SoftLink("./other")
    file[place] = h5py.SoftLink("/another")


def to_nothing(file: h5py.File, place: str) -> None:
    file[place] = h5py.SoftLink("/gone")


def below_an_array(file: h5py.File, place: str) -> None:
    file["array"] = np.zeros(3)
    file[place] = h5py.SoftLink("/array/below")


def in_a_circle(file: h5py.File, place: str) -> None:
    file["other"] = h5py.SoftLink(f"/{place}")
    file[place] = h5py.SoftLink("/other")


def to_the_root(file: h5py.File, place: str) -> None:
    file[place] = file["/"]


def named_type(file: h5py.File, place: str) -> None:
    file[place] = np.dtype("f8")


def virtual(file: h5py.File, place: str) -> None:
    layout = h5py.VirtualLayout(shape=(6,), dtype=np.int64)
    layout[:] = h5py.VirtualSource("other.h5", place, shape=(6,))
    file.create_virtual_dataset(place, layout)


def stored_outside(file: h5py.File, place: str) -> None:
    file.create_dataset(place, shape=(6,), dtype=np.int64, external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])


def huge_and_empty(file: h5py.File, place: str) -> None:
    file.create_dataset(place, shape=(10**15,), dtype=np.int64)


def huge_and_chunked(file: h5py.File, place: str) -> None:
    data = file.create_dataset(place, shape=(10**15,), dtype=np.int64, chunks=(64,), compression="gzip")
    data[:64] = 1


def large_and_compressed_twice(file: h5py.File, place: str) -> None:
    """A hundred megabytes of zeros in a few hundred bytes: deflate over deflate."""
    kept = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kept.set_chunk((12_500_000,))
    for _ in range(3):
        kept.set_deflate(9)
    space = h5py.h5s.create_simple((12_500_000,))
    h5py.h5d.create(file.id, place.encode(), h5py.h5t.NATIVE_INT64, space, kept)
    file[place][:] = 0


def nothing(file: h5py.File, place: str) -> None:
    file[place] = h5py.Empty("i8")


def scalar(file: h5py.File, place: str) -> None:
    file[place] = 3


def of_kind(values: object, dtype: object = None) -> Damage:
    def damage(file: h5py.File, place: str) -> None:
        file.create_dataset(place, data=values, dtype=dtype)

    return damage


TEXTS = of_kind(["text"] * 6, h5py.string_dtype())
"""No damage to who reads them."""
LINKS: list[tuple[Damage, str]] = [
    (external, "is a link into another file"),
    (through_an_external_link, "is a link into another file"),
    (through_two_soft_links, "is a link into another file"),
    (to_nothing, "is a link to nothing"),
    (below_an_array, "is a link to nothing"),
    (in_a_circle, "is a link that leads in a circle"),
    (to_the_root, ""),
    (named_type, ""),
]
ARRAYS: list[tuple[Damage, str]] = [
    (virtual, "lie in other files"),
    (stored_outside, "lie in other files"),
    (huge_and_empty, "declares 1000000000000000 entries"),
    (huge_and_chunked, "declares 1000000000000000 entries"),
    (large_and_compressed_twice, "far more than the file holds"),
    (nothing, "an array without a shape"),
    (scalar, ""),
    (of_kind(np.zeros(6, [("a", "i4"), ("b", "f8")])), ""),
    (TEXTS, ""),
    (of_kind(np.zeros(6, bool)), ""),
    (of_kind(np.zeros(6, complex)), ""),
    (of_kind(np.zeros(6, "V8")), ""),
    (of_kind(np.array([np.arange(3)] * 6 + [None], object)[:6], h5py.vlen_dtype(np.int64)), ""),
    (lambda file, place: of_kind([file.ref] * 6, h5py.ref_dtype)(file, place), ""),
]


def refusal(folder: Path, reader: str, place: str, damage: Damage) -> str:
    """Return what a reader says of a file in which something was done to the thing at `place`."""
    path = READERS[reader].make(folder)
    (folder / "other.h5").write_bytes(path.read_bytes())
    (folder / "raw.bin").write_bytes(b"\1" * 48)
    with h5py.File(path, "a") as file:
        del file[place]
        damage(file, place)
    outcome, _, said = READERS[reader].check(path).partition(": ")
    assert outcome == "refused"
    assert "\n" not in said
    assert path.name in said
    return said


def test_every_reader_of_hdf5_is_here(tmp_path: Path) -> None:
    """Those whose files the fuzz damages, which are all that there are."""
    found = set()
    for number, kind in enumerate(KINDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        if h5py.is_hdf5(kind.make(folder)):
            found.add(kind.name)
    assert found - STORED_OTHERWISE == set(READERS)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("damage", "words"), LINKS, ids=[damage.__name__ for damage, _ in LINKS])
def test_links(tmp_path: Path, reader: str, damage: Damage, words: str) -> None:
    """Of a top group, a client and an array."""
    for number, place in enumerate(dict.fromkeys(PLACES[reader])):
        folder = tmp_path / str(number)
        folder.mkdir()
        if damage is to_the_root and place == "arrivals":
            continue  # a group without arrivals is that of other runs
        said = refusal(folder, reader, place, damage)
        if words:
            assert words in said
            assert place.rpartition("/")[2] in said


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("damage", "words"), ARRAYS, ids=[f"{number}" for number in range(len(ARRAYS))])
def test_arrays(tmp_path: Path, reader: str, damage: Damage, words: str) -> None:
    place = PLACES[reader][2]
    if reader == "texts" and damage is TEXTS:
        return
    said = refusal(tmp_path, reader, place, damage)
    assert words in said
    assert place.rpartition("/")[2] in said


@pytest.mark.parametrize("reader", ["federated", "texts", "quadratic"])
def test_names_that_are_no_text(tmp_path: Path, reader: str) -> None:
    def damage(file: h5py.File, place: str) -> None:
        h5py.h5g.create(file[place.rpartition("/")[0]].id, b"caf\xe9")

    said = refusal(tmp_path, reader, PLACES[reader][1], damage)
    assert r"b'caf\xe9' is no text in UTF-8" in said


@pytest.mark.parametrize("reader", ["federated", "texts", "quadratic"])
def test_links_within_the_file_are_followed(tmp_path: Path, reader: str) -> None:
    path = READERS[reader].make(tmp_path)
    top, client, array = PLACES[reader]
    with h5py.File(path, "a") as file:
        file.move(array, "moved")
        file[array] = h5py.SoftLink("/moved")
        file[f"{top}/twin"] = file[client]
        file[f"{top}/other"] = h5py.SoftLink("bob")
        file.move(top, "elsewhere")
        file[top] = h5py.SoftLink("./elsewhere/.")
        file[f"elsewhere/{client.rpartition('/')[2]}"]
    assert READERS[reader].check(path) == "other digest"


def test_arrays_are_converted_to_what_runs_compute_in(tmp_path: Path) -> None:
    values = np.array([0.1, -3e-7, 2.5e4])
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for kind in ("<f8", ">f8", ">f4", ">f2", "g"):
            file[kind] = values.astype(kind)
        file[">i4"] = np.array([1, -2, 3], ">i4")
        file["colours"] = np.array([0, 1, 0], h5py.enum_dtype({"red": 0, "blue": 1}, "i2"))
    with open_data(tmp_path / "data.h5", "data.h5") as root:
        read = {name: root.array(name, name).read() for name in root.names()}  # type: ignore[union-attr]
    expected = {"<f8": "f8", ">f8": "f8", ">f4": "f4", ">f2": "f2", "g": "f8", ">i4": "i4", "colours": "i2"}
    for name, dtype in expected.items():
        assert read[name].dtype == np.dtype(dtype)
        assert read[name].dtype.isnative
        if dtype.startswith("f"):
            assert np.array_equal(read[name], values.astype(dtype))
    assert read[">i4"].tolist() == [1, -2, 3]
    assert read["colours"].tolist() == [0, 1, 0]


STORED: dict[str, dict[str, Any]] = {
    "side by side": {},
    "chunks": {"chunks": (2, 3)},
    "compressed": {"chunks": (4, 3), "compression": "gzip", "shuffle": True},
    "in the header": {"compact": True},
    "other bytes first": {"dtype": ">i4"},
    "fewer bits": {"dtype": "24 bits"},
}


def write_rows(path: Path, userblock: int, how: dict[str, Any]) -> np.ndarray:
    """Write (7, 3) numbers, stored somehow; return them."""
    values = np.arange(21, dtype=np.int32).reshape(7, 3)
    how = dict(how)
    kept, dtype = h5py.h5p.create(h5py.h5p.DATASET_CREATE), how.pop("dtype", "<i4")
    fewer = h5py.h5t.STD_I32LE.copy()
    fewer.set_precision(24)
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["before"] = np.full(100, 7)
        if dtype == "24 bits" or how.pop("compact", False):
            if dtype != "24 bits":
                kept.set_layout(h5py.h5d.COMPACT)
            kind = fewer if dtype == "24 bits" else h5py.h5t.NATIVE_INT32
            h5py.h5d.create(file.id, b"rows", kind, h5py.h5s.create_simple((7, 3)), kept)
            file["rows"][:] = values
        else:
            file.create_dataset("rows", data=values, dtype=dtype, **how)
        file["after"] = np.full(100, 7)
    return values


@pytest.mark.parametrize("userblock", [0, 512])
@pytest.mark.parametrize("stored", STORED)
def test_numbers_are_the_same_however_they_are_stored(tmp_path: Path, stored: str, userblock: int) -> None:
    path = tmp_path / "data.h5"
    values = write_rows(path, userblock, STORED[stored])
    with open_data(path, "data.h5") as root:
        array = root.array("rows", "rows")
        assert array is not None
        # those that need HDF5 to be understood are not taken from the file as they are
        assert (array.place is not None) == (stored == "side by side")
        assert np.array_equal(array.read(), values)
        assert np.array_equal(array.read_rows(2, 5), values[2:5])
        assert array.read_rows(3, 3).shape == (0, 3)
        if array.place is not None:
            assert np.array_equal(root.read_at(array.place, (4, 3), array.dtype, "rows"), values[:4])


def test_numbers_of_other_files_are_not_read_behind_a_block_of_the_users(tmp_path: Path) -> None:
    """There HDF5 says of an array outside that it begins just before the file does."""
    (tmp_path / "raw.bin").write_bytes(b"\1" * 48)
    with h5py.File(tmp_path / "data.h5", "w", userblock_size=512) as file:
        stored_outside(file, "rows")
        file["others"] = np.zeros(6)
    with open_data(tmp_path / "data.h5", "it") as root, pytest.raises(UserError, match="lie in other files"):
        root.array("rows", "rows")


def test_a_file_that_ends_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["rows"] = np.zeros(1 << 16)
    with open_data(path, "it") as root:
        array = root.array("rows", "it, rows")
        assert array is not None
        os.truncate(path, 1 << 14)
        with pytest.raises(UserError, match=r"^it, rows: cannot be read: the file ends at byte 16,384"):
            array.read()


def test_a_file_that_others_have_open_is_read(tmp_path: Path) -> None:
    path = READERS["quadratic"].make(tmp_path)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # what HDF5 does in another process that writes
        with pytest.raises(BlockingIOError), h5py.File(path):
            pass
        with open_data(path, "data") as root:
            assert root.names() == ("clients",)
    with h5py.File(path), open_data(path, "data") as root:
        assert root.names() == ("clients",)


def test_what_is_no_file_of_data(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.h5"):
        with pytest.raises(UserError, match="it: data cannot be read as HDF5"), open_data(path, "it: data"):
            pass


def test_a_result_is_read_where_the_file_system_finds_it(tmp_path: Path) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "near").symlink_to("far/deep")
    READERS["replay"].make(tmp_path / "far")
    assert open_result(tmp_path / "near" / ".." / "data.h5").arrivals["client"].size == 16
