"""Texts of variable length are those that h5py reads, and no damage of where they lie makes anybody wait."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from ppfl.core.errors import UserError
from ppfl.interfaces.data_hdf5 import DataArray, open_data

TEXTS = ["", "café", "a longer text of several words", "é" * 2500, *(f"text {number}" for number in range(40))]
KEPT: dict[str, dict[str, object]] = {
    "contiguous": {},
    "chunks": {"chunks": (7,)},
    "gzip": {"chunks": (7,), "compression": "gzip"},
    "shuffled": {"chunks": (7,), "shuffle": True, "compression": "gzip"},
    "lzf": {"chunks": (100,), "maxshape": (None,), "compression": "lzf"},
}
HEAP = b"GCOL\1"


def read(path: Path, name: str = "texts") -> list[str]:
    with open_data(path, "data.h5") as root:
        return array(root.array(name, f"data.h5, {name}")).read_texts()


def array(found: DataArray | None) -> DataArray:
    assert found is not None
    return found


def write(path: Path, libver: str = "earliest", userblock: int = 0, **kept: object) -> Path:
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        # the last two are never written
        data = file.create_dataset("texts", shape=(len(TEXTS) + 2,), dtype=h5py.string_dtype(), **kept)
        data[: len(TEXTS)] = TEXTS
    return path


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
@pytest.mark.parametrize("userblock", [0, 512])
def test_texts_are_read(tmp_path: Path, kept: str, libver: str, userblock: int) -> None:
    path = write(tmp_path / "data.h5", libver, userblock, **KEPT[kept])
    with h5py.File(path) as file:
        assert file["texts"].asstr()[:].tolist() == [*TEXTS, "", ""]
    assert read(path) == [*TEXTS, "", ""]


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_an_array_with_many_attributes(tmp_path: Path, libver: str) -> None:
    """Its header lies in several pieces."""
    path = write(tmp_path / "data.h5", libver)
    with h5py.File(path, "a", libver=libver) as file:
        for number in range(7 if libver == "latest" else 60):
            file["texts"].attrs[f"attribute {number}"] = "text" * 30
    assert read(path)[: len(TEXTS)] == TEXTS


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("kept", ["contiguous", "chunks"])
def test_a_fill_value_is_refused(tmp_path: Path, libver: str, kept: str) -> None:
    """HDF5 looks for it in the heap as soon as it is asked how an array is stored: no line may come too late."""
    path = tmp_path / "data.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("texts", shape=(9,), dtype=h5py.string_dtype(), fillvalue=b"fill", **KEPT[kept])
    content = bytearray(path.read_bytes())
    heap = content.index(HEAP)
    content[heap + 16 : heap + 40] = bytes(24)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^data\.h5, texts: has a fill value"):
        read(path)


def damaged(content: bytes, first: int, last: int) -> Iterator[bytes]:
    for place in range(first, last):
        for value in {0, 1, 0x80, 0xFF, content[place] ^ 1, content[place] ^ 8} - {content[place]}:
            yield content[:place] + bytes([value]) + content[place + 1 :]


@pytest.mark.parametrize("stored", [{}, {"chunks": (2,)}], ids=["contiguous", "chunks"])
def test_every_byte_that_leads_to_a_text_may_be_wrong(tmp_path: Path, stored: dict[str, object]) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("texts", data=["one", "another text", ""], dtype=h5py.string_dtype(), **stored)
    with h5py.File(path) as file:
        data = file["texts"].id
        where = data.get_offset() or data.get_chunk_info(0).byte_offset
    content = path.read_bytes()
    heap = content.index(HEAP)
    said = []
    for changed in [*damaged(content, where, where + 32), *damaged(content, heap, heap + 160)]:
        path.write_bytes(changed)
        try:
            assert len(read(path)) == 3
        except UserError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all(line.startswith("data.h5, texts: ") and "\n" not in line for line in said)


def objects(content: bytes, heap: int) -> list[int]:
    """Return where the objects of a collection begin."""
    found, place, last = [], heap + 16, heap + int.from_bytes(content[heap + 8 : heap + 16], "little")
    while place < last:
        index, _, num_bytes = struct.unpack_from("<HH4xQ", content, place)[:3]
        found.append(place)
        place += 16 + (num_bytes + 7) // 8 * 8 if index else num_bytes
    return found


def patched(form: str, at: Callable[[list[int]], int], *values: int) -> Callable[[bytearray, int], None]:
    def damage(content: bytearray, heap: int) -> None:
        struct.pack_into(form, content, at(objects(content, heap)), *values)

    return damage


HEAPS: dict[str, tuple[Callable[[bytearray, int], None], str]] = {
    "free space of no bytes": (patched("<Q", lambda found: found[-1] + 8, 0), "is damaged"),
    "free space that is too long": (patched("<Q", lambda found: found[-1] + 8, 1 << 40), "is damaged"),
    "a text that becomes free space": (patched("<HHIQ", lambda found: found[0], 0, 0, 0, 0), "is damaged"),
    "a text that leads to zeros": (patched("<Q", lambda found: found[-2] + 8, 200), "is damaged"),
    "a text of 2⁶⁴ − 1 bytes": (patched("<Q", lambda found: found[0] + 8, (1 << 64) - 1), "is damaged"),
    "two with one index": (patched("<H", lambda found: found[0], 2), "is damaged"),
    "none with that index": (patched("<H", lambda found: found[0], 77), "has no text"),
    "a text of other length": (patched("<Q", lambda found: found[0] + 8, 6), "has no text"),
    "a heap of no bytes": (patched("<Q", lambda found: found[0] - 8, 0), "there is no heap at"),
    "a heap longer than the file": (patched("<Q", lambda found: found[0] - 8, 1 << 40), "where the file ends before"),
    "no heap": (patched("<I", lambda found: found[0] - 16, 0), "there is no heap at"),
}


@pytest.mark.parametrize("what", HEAPS)
def test_damaged_heaps(tmp_path: Path, what: str) -> None:
    """The first four are where HDF5 2.0 goes in circles."""
    damage, words = HEAPS[what]
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("texts", data=["a text of 16 ...", "another one", "third"], dtype=h5py.string_dtype())
    content = bytearray(path.read_bytes())
    damage(content, content.index(HEAP))
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read(path)


def test_texts_that_many_entries_share_do_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("texts", data=["x" * 100_000, *["y"] * 999], dtype=h5py.string_dtype())
    with h5py.File(path) as file:
        where = file["texts"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[where : where + 16_000] = content[where : where + 16] * 1000
    path.write_bytes(content)
    with pytest.raises(UserError, match="its texts are together longer than the file"):
        read(path)


def test_files_that_nobody_writes_unasked(tmp_path: Path) -> None:
    created = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    created.set_sizes(4, 4)
    path = tmp_path / "short.h5"
    with h5py.File(h5py.h5f.create(str(path).encode(), fcpl=created)) as file:
        file.create_dataset("texts", data=["text"], dtype=h5py.string_dtype())
    with pytest.raises(UserError, match="its addresses are not of 8 bytes"):
        read(path)
    path = tmp_path / "compact.h5"
    kept = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kept.set_layout(h5py.h5d.COMPACT)
    with h5py.File(path, "w") as file:
        kind, space = h5py.h5t.py_create(h5py.string_dtype(), logical=True), h5py.h5s.create_simple((1,))
        h5py.h5d.create(file.id, b"texts", kind, space, kept)
        file["texts"][:] = ["text"]
    with pytest.raises(UserError, match="must be stored contiguously or in chunks"):
        read(path)


def test_chunks_that_cannot_be_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        stored = {"maxshape": (None,), "chunks": (1 << 27,), "compression": "gzip"}
        data = file.create_dataset("texts", shape=(3,), dtype=h5py.string_dtype(), **stored)
        data.id.write_direct_chunk((0,), b"\0" * 64, 1)
    with pytest.raises(UserError, match="its chunks of 134,217,728 entries cannot be in this file"):
        read(path)


def test_a_damaged_chunk_keeps_nobody_from_reading_the_next_file(tmp_path: Path) -> None:
    """As long as what was raised is held, by whoever tells of it or by a cycle that waits to be collected."""
    bad, good = (write(tmp_path / name, **KEPT["gzip"]) for name in ("bad.h5", "good.h5"))
    with h5py.File(bad) as file:
        chunk = file["texts"].id.get_chunk_info(1)
    content = bytearray(bad.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    bad.write_bytes(content)
    with pytest.raises(UserError, match="texts: cannot be read: Can't") as held:
        read(bad)
    assert read(good) == [*TEXTS, "", ""]
    assert held.value.__cause__ is not None


def test_texts_are_no_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5")
    with open_data(path, "data.h5") as root:
        texts = array(root.array("texts", "data.h5, texts"))
        for numbers in (texts.read, lambda: texts.read_rows(0, 2)):
            with pytest.raises(UserError, match="holds texts"):
                numbers()


def test_types_that_hold_texts_are_refused_before_they_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    pairs = np.array([(1, "a")], [("number", "i4"), ("text", h5py.string_dtype())])
    with h5py.File(path, "w") as file:
        file.create_dataset("pairs", data=pairs)
        file.create_dataset("lists", data=np.array([np.arange(3), None], object)[:1], dtype=h5py.vlen_dtype(np.int64))
        file.create_dataset("references", data=[file.ref], dtype=h5py.ref_dtype)
    for name in ("pairs", "lists", "references"):
        with pytest.raises(UserError, match="holds entries of variable length"):
            read(path, name)
