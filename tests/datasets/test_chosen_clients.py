"""The section `clients`: who takes part, told and refused, in every layout and for texts."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

import ppfl
from ppfl.core.communicator import Communicator
from ppfl.core.errors import UserError
from ppfl.datasets._chosen_clients import Clients, Sizes
from ppfl.datasets._text_file import TextFile
from ppfl.interfaces.data_hdf5 import DataGroup
from tests.ranks import on_ranks
from tests.tasks.test_texts import load as load_texts
from tests.tasks.test_texts import write as write_texts
from tests.test_datasets import images, load, placement, write
from tests.test_flat_data import random, same, write_flat

TRAIN = {"a": 40, "b": 12, "c": 90, "d": 12, "e": 31, "f": 0}
TEST = {"a": 5, "c": 2, "d": 9, "e": 5, "g": 30}
RULES: list[tuple[dict[str, Any], list[str]]] = [
    ({"min_train": 12}, ["a", "b", "c", "d", "e"]),
    ({"min_train": 13}, ["a", "c", "e"]),
    ({"min_test": 5}, ["a", "d", "e", "g"]),
    ({"min_samples": 36}, ["a", "c", "e"]),
    ({"min_samples": 37}, ["a", "c"]),
    ({"min_train": 12, "min_test": 5}, ["a", "d", "e"]),
    ({"min_train": 12, "min_test": 5, "first": 2}, ["a", "d"]),
    ({"first": 3}, ["a", "b", "c"]),
    ({"names": ["e", "b", "e"]}, ["b", "e"]),
    ({"names": ["e", "b", "g"], "min_train": 1, "first": 1}, ["b"]),
    ({"max_samples": 7}, ["a", "b", "c", "d", "e", "f", "g"]),
]


def files(folder: Path, layouts: str) -> dict[str, Any]:
    keys: dict[str, Any] = {"name": "federated_hdf5"}
    for key, sizes, layout in zip(("train", "test"), (TRAIN, TEST), layouts.split(), strict=True):
        writer: Callable[[Path, Mapping[str, Any]], str] = write_flat if layout == "flat" else write
        keys[key] = writer(folder / f"{key}.h5", random(sizes))
    return keys


@pytest.mark.parametrize("layouts", ["grouped grouped", "flat flat", "flat grouped"])
@pytest.mark.parametrize(("rule", "expected"), RULES, ids=str)
def test_who_takes_part(tmp_path: Path, layouts: str, rule: dict[str, Any], expected: list[str]) -> None:
    """The same data as a file in which nobody else is."""
    found = load({**files(tmp_path, layouts), "clients": rule})
    assert list(found.client_names) == expected
    most = rule.get("max_samples", 1000)
    alone = {
        key: write(tmp_path / f"{key}-alone.h5", {
            name: {field: values[:most] for field, values in of.items()}
            for name, of in random(sizes).items() if name in expected
        } or {"nobody": random({"nobody": 0})["nobody"]})
        for key, sizes in (("train", TRAIN), ("test", TEST))
    }  # fmt: skip
    wanted = load({"name": "federated_hdf5", **alone})
    if "nobody" not in wanted.client_names:
        same(found, wanted)


@pytest.mark.parametrize("layouts", ["grouped grouped", "flat flat"])
def test_sizes_to_test_on_may_be_a_fraction(tmp_path: Path, layouts: str) -> None:
    """Of 40, 12, 90, 12 and 31 samples a quarter, rounded down, is 10, 3, 22, 3 and 7."""
    keys = {**files(tmp_path, layouts), "test": 0.25}
    assert load({**keys, "clients": {"min_test": 7}}).client_names == ("a", "c", "e")
    assert load({**keys, "clients": {"min_train": 24}}).client_names == ("a", "c", "e")
    assert load({**keys, "clients": {"min_train": 25}}).client_names == ("a", "c")
    found = load({**keys, "clients": {"min_samples": 31, "max_samples": 20}})
    assert [*zip(found.num_train_samples, found.num_validation_samples, found.num_test_samples, strict=True)] == [
        (13, 2, 5)
    ] * 3


def test_a_draw_is_of_the_seed_of_the_data_and_of_those_who_suffice(tmp_path: Path) -> None:
    path = write(tmp_path / "train.h5", {f"c{m:02d}": images(5 + m % 3, m) for m in range(30)})
    keys = {"name": "federated_hdf5", "train": path, "clients": {"min_samples": 6, "draw": 5}}
    drawn = {seed: load(keys, placement(seed=seed)).client_names for seed in range(5)}
    assert len(set(drawn.values())) > 1
    for names in drawn.values():
        assert len(set(names)) == 5
        assert list(names) == sorted(names)
        assert all(int(name[1:]) % 3 for name in names)
    seen = {name for seed in range(40) for name in load(keys, placement(seed=seed)).client_names}
    assert len(seen) == 20

    def of_rank(communicator: Communicator) -> tuple[str, ...]:
        return load(keys, placement(communicator, seed=3)).client_names

    assert on_ranks(3, of_rank) == [drawn[3]] * 3


@pytest.mark.parametrize(
    "content",
    ["b\ne\n", "e\r\nb\r\n", '"train_ids"\n"b"\n"e"\n', "test_ids\nb\n\ne", "\ufeffclient_id\nb\ne\nb\n"],
    ids=["lines", "other system", "published", "without quotes", "a mark at the beginning"],
)
def test_a_file_of_names(tmp_path: Path, content: str) -> None:
    (tmp_path / "names.csv").write_bytes(content.encode())
    keys = {**files(tmp_path, "grouped grouped"), "clients": {"names": str(tmp_path / "names.csv")}}
    assert load(keys).client_names == ("b", "e")


def test_names_may_be_any_text_in_a_file(tmp_path: Path) -> None:
    names = ["ä,b", 'say "x"', " two words "]
    path = write(tmp_path / "train.h5", {name: images(5) for name in [*names, "other"]})
    (tmp_path / "names").write_text('ä,b\n"say ""x"""\n two words \n', encoding="utf-8")
    keys = {"name": "federated_hdf5", "train": path, "clients": {"names": str(tmp_path / "names")}}
    assert load(keys).client_names == tuple(sorted(names))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"min_train": 91}, "problem.dataset.clients.min_train: 0 of 7 clients can take part; at least one must"),
    ({"min_test": 31}, "problem.dataset.clients.min_test: 0 of 7 clients can take part; at least one must"),
    ({"min_samples": 93}, "problem.dataset.clients.min_samples: 0 of 7 clients"),
    ({"first": 8}, "problem.dataset.clients.first: 7 of 7 clients can take part; 8 are asked for"),
    ({"draw": 4, "min_train": 13}, "problem.dataset.clients.draw: 3 of 7 clients can take part; 4 are asked for"),
    (
        {"names": ["a", "x", "y"]},
        "problem.dataset.clients.names: 2 of its 3 names are no clients of the data, such as 'x', 'y'",
    ),
]


@pytest.mark.parametrize("layouts", ["grouped grouped", "flat flat"])
@pytest.mark.parametrize(("rule", "words"), REFUSED, ids=str)
def test_what_leaves_too_few_is_refused_on_every_rank(
    tmp_path: Path, layouts: str, rule: dict[str, Any], words: str
) -> None:
    keys = {**files(tmp_path, layouts), "clients": rule}

    def refused(communicator: Communicator) -> str:
        with pytest.raises(UserError) as told:
            load(keys, placement(communicator))
        (line,) = told.value.lines
        return line

    assert all(line.startswith(words) for line in on_ranks(2, refused))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no name; it must have one at least"),
        (b"train_ids\n", "has no name"),
        (b"caf\xe9", "is no text in UTF-8; allowed is a name a line"),
        (b'a\n"b', "line 2: is '\"b'; allowed is one name, in double quotes or without"),
        (b'"a","b"\n', 'line 1: is \'"a","b"\'; allowed is one name'),
        (b"a\nz\n", "1 of its 2 names are no clients of the data, such as 'z'"),
    ],
    ids=["empty", "head alone", "bytes", "open quote", "two", "nobody"],
)
def test_files_of_names_that_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    keys = {**files(tmp_path, "grouped grouped"), "clients": {"names": str(path)}}
    with pytest.raises(UserError, match=re.escape(f"problem.dataset.clients.names: {path}")) as told:
        load(keys)
    assert words in str(told.value)
    assert len(told.value.lines) == 1


def test_a_list_that_is_no_list_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppfl.datasets._chosen_clients._MAX_LIST_BYTES", 1 << 20)
    path = tmp_path / "names.txt"
    with path.open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(UserError, match=r"names\.txt: is longer than 1 MiB; allowed is a name a line"):
        load({**files(tmp_path, "flat flat"), "clients": {"names": str(path)}})


@pytest.mark.parametrize(
    "rule",
    [{}, {"first": 2, "draw": 2}, {"first": 0}, {"min_train": 0}, {"names": []}, {"names": "nowhere.txt"},
     {"names": 3}, {"most": 3}, {"min_test": 2.5}],
    ids=str,
)  # fmt: skip
def test_sections_that_say_nothing_or_too_much_are_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Clients).validate_python(rule)


def test_how_many_remain_is_told_in_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ppfl"):
        load({**files(tmp_path, "grouped grouped"), "clients": {"min_train": 13}})
    assert "problem.dataset.clients: 3 of 7 clients take part" in caplog.messages


def test_no_more_clients_are_looked_at_than_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is opened for each: of 342,477 clients that would take minutes."""
    asked: list[str] = []

    def sizes_of(name: str) -> Sizes:
        asked.append(name)
        return Sizes(9, 9)

    names = [f"c{m:04d}" for m in range(1000)]
    assert Clients(first=3).choose(names, sizes_of, 0) == names[:3]
    assert len(Clients(draw=7).choose(names, sizes_of, 0)) == 7
    assert not asked
    assert Clients(first=3, min_train=9).choose(names, sizes_of, 0) == names[:3]
    assert len(Clients(draw=7, min_test=9).choose(names, sizes_of, 0)) == 7
    assert len(asked) == 10

    for rule, most in (({"first": 3}, 3), ({"draw": 7}, 7), ({"names": ["a", "b"]}, 2), ({"min_test": 9}, 1000)):
        assert Clients.model_validate(rule).at_most(1000) == most

    opened: set[str] = set()
    original = DataGroup._find
    monkeypatch.setattr(DataGroup, "_find", lambda self, name, where: opened.add(name) or original(self, name, where))
    path = write(tmp_path / "train.h5", {f"client{m}": images(5, m) for m in range(8)})
    load({"name": "federated_hdf5", "train": path, "clients": {"names": ["client3", "client6"]}})
    assert {name for name in opened if name.startswith("client")} == {"client3", "client6"}


def test_who_is_broken_and_takes_no_part_does_no_harm(tmp_path: Path) -> None:
    broken = {"pixels": np.zeros((3, 2, 2), np.int16), "label": np.zeros(7)}
    path = write(tmp_path / "train.h5", {"a": broken, "b": images(6), "c": images(6)})
    keys = {"name": "federated_hdf5", "train": path}
    with pytest.raises(UserError, match="client 'a'"):
        load(keys)
    assert load({**keys, "clients": {"names": ["b", "c"]}}).client_names == ("b", "c")


def test_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are of samples; the vocabulary is that of who takes part."""
    texts = {"a": ["ab", "cd"], "b": ["xyz" * 4], "c": ["abc"] * 5, "d": ["q"]}
    write_texts(tmp_path / "train.h5", texts)
    write_texts(tmp_path / "test.h5", {"a": ["a"], "c": ["b", "c"]})
    both = {"train": "train.h5", "test": "test.h5", "length": 3}

    def names(rule: dict[str, Any]) -> tuple[str, ...]:
        return load_texts(tmp_path, **both, clients=rule).client_names

    assert names({"min_train": 3}) == ("b", "c")
    assert names({"min_test": 1}) == ("a", "c")
    assert names({"min_samples": 3}) == ("a", "b", "c")
    assert names({"names": ["d"]}) == ("d",)
    found = load_texts(tmp_path, **both, clients={"names": ["a", "c"], "max_samples": 3})
    assert found.vocabulary_size == 8
    assert found.num_train_samples == (2, 3)
    # of five texts with two samples each the first three samples
    assert found.samples[1].train.y.tolist() == [[1, 2, 3], [0, 0, 0], [1, 2, 3]]
    words = {"unit": "words", "field": "snippets", "length": 2}
    found = load_texts(tmp_path, train="train.h5", clients={"min_train": 2, "max_samples": 4}, **words)
    assert found.client_names == ("a", "c")
    assert found.num_train_samples == (2, 4)
    read: list[tuple[str, int | None]] = []
    original = TextFile.read

    def recording(file: TextFile, name: str, most: int | None = None) -> list[str]:
        read.append((name, most))
        return original(file, name, most)

    monkeypatch.setattr(TextFile, "read", recording)
    (tmp_path / "counts").write_text("abc 3\nab 2\n")
    load_texts(tmp_path, train="train.h5", counts="counts", clients={"min_train": 2, "max_samples": 4}, **words)
    assert read == [("a", 4), ("c", 4)]


def test_a_vocabulary_that_no_text_is_of_is_refused(tmp_path: Path) -> None:
    write_texts(tmp_path / "train.h5", {"a": ["ab"]})
    with pytest.raises(UserError, match=r"train\.h5, snippets: none of its 2 characters is in the vocabulary of 5 ids"):
        load_texts(tmp_path, train="train.h5", alphabet="z")


@pytest.mark.parametrize("stored", [h5py.string_dtype(), h5py.string_dtype(length=3)], ids=["variable", "fixed"])
def test_the_first_texts_of_many_are_read(tmp_path: Path, stored: np.dtype) -> None:
    with h5py.File(tmp_path / "texts.h5", "w") as file:
        texts = [f"t{number}".encode() for number in range(9)]
        file.create_dataset("examples/a/snippets", data=texts, dtype=stored)
    found = load_texts(tmp_path, train="texts.h5", length=3, alphabet="t0123456789", clients={"max_samples": 2})
    assert found.samples[0].train.y[:, :3].tolist() == [[1, 2, 14], [1, 3, 14]]


def test_digests_are_older_than_the_section_and_tell_rules_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "train.h5", {"a": images(6), "b": images(6)})

    def digest(**keys: Any) -> str:
        dataset = {"name": "federated_hdf5", "train": path, **keys}
        document = {
            "name": "x", "rounds": 1,
            "problem": {"name": "supervised", "dataset": dataset, "model": {"name": "logistic_regression"},
                        "split": {"local": []}, "batch_size": "all"},
            "algorithm": {"name": "fedavg", "lr": 0.1, "epochs": 1},
        }  # fmt: skip
        return ppfl.load(document).digest

    plain = digest()
    assert digest(clients=None, label="label", normalize=None) == plain
    others = [
        digest(clients={"first": 1}), digest(clients={"draw": 1}), digest(clients={"names": ["a"]}),
        digest(label="coarse_label"), digest(normalize={"mean": [0.5], "std": [1]}),
    ]  # fmt: skip
    assert len({plain, *others}) == 6
    for name, text in (("one", "a\n"), ("other", "a\n"), ("third", "b\n")):
        (tmp_path / name).write_text(text)
    of_files = [digest(clients={"names": str(tmp_path / name)}) for name in ("one", "other", "third")]
    assert of_files[0] == of_files[1] != of_files[2]
