"""`ppfl data check`: what is in files, counted, beside what is published."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ppfl.catalogue import check as checking
from ppfl.catalogue import count_files
from ppfl.catalogue.check import Finding, check
from ppfl.catalogue.count_hdf5 import samples
from ppfl.catalogue.counted import Counted
from ppfl.catalogue.entry import Rule, Source
from ppfl.catalogue.index import find, names
from ppfl.catalogue.tiny import make_tiny
from ppfl.core.errors import UserError
from tests.grids import ppfl

SOURCE = Source("somebody/something", "file.py", "0" * 40)


def verdicts(name: str, folder: Path) -> dict[str, str]:
    return {finding.text: finding.verdict for finding in check(name, folder)}


@pytest.mark.parametrize("name", names())
def test_files_that_are_as_published_are_found_to_be(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the tiny files have in the place of what is published, which all of it is compared with."""
    make_tiny(name, tmp_path)
    home, data_set = tmp_path / name, find(name)
    published = tuple(replace(file, facts=file.count(home / file.name).facts) for file in data_set.published)
    rules = tuple(replace(rule, train=1, test=1 if rule.test else 0, total=0) for rule in data_set.rules)
    sizes = published[0].count(home / published[0].name).sizes
    rules = tuple(replace(rule, num_clients=len(sizes)) for rule in rules)
    monkeypatch.setattr(checking, "find", lambda name: replace(data_set, published=published, rules=rules))
    found = verdicts(name, tmp_path)
    assert {*found.values()} <= {"ok", "not published"}
    assert len(found) >= 2 * len(published) - 1
    one = next(file for file in published if file.facts)
    fewer = replace(one, facts={**one.facts, "samples": 7})
    monkeypatch.setattr(checking, "find", lambda name: replace(data_set, published=(fewer,), rules=()))
    (deviation,) = [text for text, verdict in verdicts(name, tmp_path).items() if verdict == "deviation"]
    assert deviation == f"{one.name}: {one.facts['samples']:,} samples; published: 7"


def test_the_command_tells_sources_and_ends_with_1_for_deviations(tmp_path: Path) -> None:
    make_tiny("femnist", tmp_path)
    (tmp_path / "femnist" / "femnist_test.h5").unlink()
    done = ppfl("data", "check", "femnist", "--folder", tmp_path)
    lines = done.stdout.splitlines()
    assert done.exit_code == 1
    assert "deviation      femnist_train.h5: 78 samples; published: 671,585 [1]" in lines
    assert "ok             femnist_train.h5: pixels float32 28 × 28 [1]" in lines
    assert f"missing        femnist_test.h5: is not in {tmp_path / 'femnist'}" in lines
    assert lines[-1].startswith("[1] google-parfait/tensorflow-federated, tensorflow_federated/python/")


def test_without_files_one_is_told_which_to_put_where(tmp_path: Path) -> None:
    done = ppfl("data", "check", "femnist", "--folder", tmp_path)
    assert done.exit_code == 2
    assert f"has none of femnist_train.h5, femnist_test.h5; fetch them, or put into {tmp_path}/femnist: " in done.stderr
    assert "fed_emnist.tar.bz2 from https://storage.googleapis.com/" in done.stderr


def test_a_whole_set_ends_with_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [Finding("ok", "a: 1 clients", SOURCE), Finding("not published", "a: 2 classes")]
    monkeypatch.setattr(checking, "check", lambda name, folder: iter(good))
    done = ppfl("data", "check", "a9a", "--folder", tmp_path)
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "ok             a: 1 clients [1]")


def test_rules_count_clients_by_their_samples() -> None:
    train, test = {"a": 100, "b": 99, "c": 100, "d": 300}, {"a": 25, "b": 40, "c": 24, "e": 50}
    counted = {"train": Counted({}, train), "test": Counted({}, test)}

    def left(**rule: Any) -> int:
        return checking._num_left(Rule(0, SOURCE, train_file="train", **rule), counted)

    assert left(train=100, test=25, test_file="test") == 1
    assert left(total=125, test_file="test") == 3
    assert left(total=100) == 3
    assert str(Rule(0, SOURCE, train=100, test=25)) == "clients with at least 100 training samples and 25 test samples"
    assert str(Rule(0, SOURCE, total=50)) == "clients with at least 50 samples"


def idx(*axes: int, content: bytes, kind: int = 8) -> bytes:
    return struct.pack(f">4B{len(axes)}I", 0, 0, kind, len(axes), *axes) + content


BAD: dict[str, tuple[Callable[[Path], Counted], bytes, str]] = {
    "truncated": (count_files.idx_images, idx(3, 2, 2, content=bytes(11)), "ends 1 bytes before the 12 bytes that"),
    "longer": (count_files.idx_images, idx(3, 2, 2, content=bytes(13)), "goes on after the 12 bytes"),
    "huge": (
        count_files.idx_images,
        idx(2**32 - 1, 2**16, 2**16, content=b"a"),
        "before the 18,446,744,069,414,584,320",
    ),
    "labels for images": (count_files.idx_images, idx(3, content=bytes(3)), "is no IDX file of unsigned bytes with 3"),
    "floats": (count_files.idx_labels, idx(3, content=bytes(12), kind=13), "is no IDX file of unsigned bytes with 1"),
    "empty": (count_files.idx_labels, b"", "is no IDX file"),
    "broken gzip": (count_files.idx_labels, gzip.compress(idx(3, content=bytes(3)))[:-9], "cannot be read: "),
    "half a record": (count_files.cifar10, bytes(3073 + 5), "is no whole number of records of 3,073 bytes"),
    "text": (count_files.libsvm, b"+1 1:1\nlabel\n", "line 2: is b'label"),
    "no index": (count_files.libsvm, b"+1 a:1\n", "line 1: is b'.1 a:1"),
    "one line": (count_files.libsvm, b"1 " + b"1:1 " * 300_000, "line 1: is longer than 1,048,576 bytes"),
    "a short line": (
        count_files.images_of_users,
        b"user_id,image_id,class\n1,a\n",
        "line 2: has fewer columns than the",
    ),
    "no lines": (count_files.images_of_users, b"1" * 2_000_000, "line 1: is longer than 1,048,576 bytes"),
    "columns": (count_files.images_of_users, b"user_id,class\n1,2\n", "is no table in UTF-8 with the columns"),
    "bytes": (count_files.images_of_users, b"user_id,image_id,class\n\xff,a,2\n", "is no table in UTF-8 with"),
    "no HDF5": (samples, b"text", "cannot be read as HDF5"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_told_in_a_line(case: str, tmp_path: Path) -> None:
    count, content, message = BAD[case]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}.*{message}") as told:
        count(path)
    assert "\n" not in str(told.value)


def test_a_mark_before_a_mapping_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfuser_id,image_id,class\n1,a,2\n")
    assert count_files.images_of_users(tmp_path / "file").facts["samples"] == 1


def written(path: Path, clients: dict[str, dict[str, Any]]) -> Path:
    with h5py.File(path, "w") as file:
        file.create_group("examples")
        for name, fields in clients.items():
            group = file.create_group(f"examples/{name}")
            for field, values in fields.items():
                group[field] = values
    return path


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        ({}, "has no clients"),
        (
            {"a": {"label": [1]}, "b": {"label": [1], "more": [1]}},
            "client 'b': has the fields label, more, those before",
        ),
        ({"a": {"values": [1]}}, "client 'a': has values; one of tokens, snippets, label must be among them"),
    ],
)
def test_clients_with_other_fields_are_named(clients: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        samples(written(tmp_path / "a.h5", clients))


def test_both_layouts_are_counted_alike(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    clients = {
        name: {"pixels": draw.random((size, 4, 4), np.float32), "label": draw.integers(0, 5, size)}
        for name, size in {"b": 7, "a": 30}.items()
    }
    grouped, flat = written(tmp_path / "grouped.h5", clients), tmp_path / "flat.h5"
    assert ppfl("data", "flatten", grouped, flat).exit_code == 0
    one, other = samples(grouped), samples(flat)
    assert one.facts == {
        "clients": 2,
        "samples": 37,
        "classes": 5,
        "fields": "label, pixels",
        "pixels": "float32 4 × 4",
        "label": "int64",
    }
    assert (dict(one.facts), dict(one.sizes)) == (dict(other.facts), dict(other.sizes))


def test_the_real_a9a_is_as_published(tmp_path: Path) -> None:
    """Where it is there: the catalogue's numbers are those of the file itself."""
    import os

    path = Path(os.environ.get("PPFL_DATA") or tmp_path) / "a9a.svm.gz"
    if not path.exists():
        pytest.skip("PPFL_DATA has no a9a.svm.gz")
    (published,) = [file for file in find("a9a").published if file.name == "a9a"]
    assert published.facts == published.count(path).facts
