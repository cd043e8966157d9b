"""Texts of clients as sequences of tokens: layout, ids, cuts, vocabularies, and what is refused."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.errors import UserError
from ppfl.datasets._text_file import TextFile
from ppfl.datasets._vocabulary import Vocabulary
from ppfl.datasets.text_hdf5 import TextHDF5
from ppfl.interfaces.dataset import FederatedSamples
from ppfl.interfaces.placement import Placement

SHAKESPEARE = Path(os.environ.get("PPFL_DATA", "")) / "shakespeare40_train.h5"
WORDS = {"unit": "words", "length": 3}


def write(path: Path, of_clients: Mapping[str, Sequence[str | bytes]], field: str = "snippets") -> str:
    with h5py.File(path, "w") as file:
        for client, texts in of_clients.items():
            file.create_dataset(f"examples/{client}/{field}", data=[*texts], dtype=h5py.string_dtype())
    return str(path)


def load(folder: Path, **keys: Any) -> FederatedSamples:
    section = {"name": "text_hdf5", "test": 0.0, "validation": 0.0, "unit": "characters", **keys}
    dataset = TypeAdapter(TextHDF5).validate_python(section, context={"folder": folder})
    here = Placement(SoloCommunicator(), 0, 0, torch.float32, torch.device("cpu"))
    return dataset.load(here, clients_per_chunk=1)


def of(found: FederatedSamples, client: int) -> tuple[list[list[int]], list[list[int]]]:
    train = found.samples[client].train
    return train.x.tolist(), train.y.tolist()


def refused(folder: Path, **keys: Any) -> str:
    with pytest.raises(UserError) as told:
        load(folder, **keys)
    assert len(told.value.lines) == 1
    return str(told.value.lines[0])


def test_characters_are_cut_as_in_tensorflow_federated(tmp_path: Path) -> None:
    """Begin 7, end 8, unknown 6, padding 0; pieces of T + 1 that never span two texts."""
    write(tmp_path / "train.h5", {"a": ["ABCD", "E"], "b": ["A?"]})
    found = load(tmp_path, train="train.h5", length=3, alphabet="ABCDE")
    assert of(found, 0) == ([[7, 1, 2], [4, 8, 0], [7, 5, 8]], [[1, 2, 3], [8, 0, 0], [5, 8, 0]])
    assert of(found, 1) == ([[7, 1, 6]], [[1, 6, 8]])
    assert found.num_train_samples == (3, 1)
    assert (found.vocabulary_size, found.input_shape, found.label_shape) == (9, (3,), (3,))
    assert found.special_ids == {"padding": 0, "out_of_vocabulary": 6, "begin": 7, "end": 8}


def test_a_text_that_fills_its_pieces_has_no_padding_and_one_more_character_a_piece_more(tmp_path: Path) -> None:
    for length, number in ((0, 1), (1, 1), (2, 1), (3, 2), (6, 2), (7, 3)):
        path = write(tmp_path / f"{length}.h5", {"a": ["x" * length]})
        found = load(tmp_path, train=path, length=3, alphabet="x")
        assert found.num_train_samples == (number,)
        x, y = (np.array(values) for values in of(found, 0))
        assert np.array_equal(x[:, 1:], y[:, :-1])
        assert (y > 0).sum() == length + 2 - number - (x[:, 0] == 0).sum()


def test_the_alphabet_is_that_of_training_by_code_points(tmp_path: Path) -> None:
    write(tmp_path / "train.h5", {"a": ["zé\n", "ba"], "b": [" "]})
    write(tmp_path / "test.h5", {"b": ["aq"], "c": ["z"]})
    found = load(tmp_path, train="train.h5", test="test.h5", length=4)
    assert found.vocabulary_size == 10
    assert found.client_names == ("a", "b", "c")
    assert of(found, 0) == ([[8, 5, 6, 1], [8, 4, 3, 9]], [[5, 6, 1, 9], [4, 3, 9, 0]])
    assert found.samples[1].test.y.tolist() == [[3, 7, 9, 0]]
    assert found.samples[2].test.y.tolist() == [[5, 9, 0, 0]]
    assert found.num_train_samples == (2, 1, 0)


def test_words_are_cut_as_in_tensorflow_federated(tmp_path: Path) -> None:
    """The first T words; end where there are fewer; what lies between blanks is a word."""
    texts = ["the cat", "the  dog saw the cat", "a cat the", ""]
    write(tmp_path / "train.h5", {"a": texts}, "tokens")
    (tmp_path / "counts.csv").write_text("the,9\ncat,7\ndog,7\nsaw,1\n")
    found = load(tmp_path, train="train.h5", counts="counts.csv", words=3, **WORDS)
    assert of(found, 0)[0] == [[5, 1, 2], [5, 1, 3], [5, 4, 2], [5, 6, 0]]
    assert of(found, 0)[1] == [[1, 2, 6], [1, 3, 4], [4, 2, 1], [6, 0, 0]]


def test_ten_thousand_words_have_10004_ids(tmp_path: Path) -> None:
    write(tmp_path / "train.h5", {"a": ["w0 w9999 w10000"]}, "tokens")
    (tmp_path / "counts.json").write_text(json.dumps({f"w{k}": 20_000 - k for k in range(10_005)}))
    found = load(tmp_path, train="train.h5", counts="counts.json", unit="words")
    assert found.vocabulary_size == 10_004
    assert found.samples[0].train.y[0, :4].tolist() == [1, 10_000, 10_001, 10_003]
    assert found.samples[0].train.x[0, 0] == 10_002
    assert found.input_shape == (20,)


@pytest.mark.parametrize(
    "text",
    ['{"b": 2, "c": 3, ",": 2, "a": 2}', "b,2\nc,3\n,,2\na,2\n", "word count\nb 2\r\nc\t3\n, 2\n\na 2"],
    ids=["JSON", "CSV", "text"],
)
def test_counts_are_read_from_any_of_three_files_and_ties_go_to_the_first(tmp_path: Path, text: str) -> None:
    write(tmp_path / "train.h5", {"m": ["c b , a"]}, "tokens")
    (tmp_path / "counts").write_text(text)
    found = load(tmp_path, train="train.h5", counts="counts", unit="words", length=4, words=3)
    assert found.samples[0].train.y.tolist() == [[1, 2, 3, 4]]


def test_words_are_counted_in_training_and_ties_go_by_code_points(tmp_path: Path) -> None:
    write(tmp_path / "train.h5", {"m": ["b a c", "c"], "n": ["d d d"]}, "tokens")
    found = load(tmp_path, train="train.h5", unit="words", length=3, words=3)
    assert of(found, 0)[1][0] == [4, 3, 2]
    assert of(found, 1)[1] == [[1, 1, 1]]


def test_what_is_refused_of_files(tmp_path: Path) -> None:
    good = write(tmp_path / "good.h5", {"ada": ["ab"]})
    bad = write(tmp_path / "bad.h5", {"ada": ["ab"], "bob": [b"caf\xe9"]})
    assert refused(tmp_path, train=bad, alphabet="a") == (
        rf"problem.dataset.train: {bad}, client 'bob', snippets: the entry b'caf\xe9' is no text in UTF-8"
    )
    empty = write(tmp_path / "empty.h5", {"ada": ["ab"], "bob": []})
    for keys in ({"alphabet": "a"}, {}, {"unit": "words", "field": "snippets"}):
        said = f"problem.dataset.train: {empty}, client 'bob', snippets: has no text; a client needs one at least"
        assert refused(tmp_path, train=empty, **keys) == said
    assert refused(tmp_path, train=good, field="tokens") == (
        f"problem.dataset.train: {good}, client 'ada': no tokens, but snippets; `field` says which to read"
    )
    other = write(tmp_path / "other.h5", {"ada": ["xyz", "x"]})
    assert refused(tmp_path, train=good, test=other) == (
        f"problem.dataset.test: {other}, snippets: none of its 4 characters is in the vocabulary of 6 ids"
    )
    with h5py.File(tmp_path / "numbers.h5", "w") as file:
        file["examples/ada/snippets"] = [1, 2]
    assert "must hold one text an entry" in refused(tmp_path, train="numbers.h5")
    with h5py.File(tmp_path / "nobody.h5", "w") as file:
        file["pixels"] = [1, 2]
    assert "has no clients; the layout is examples/<client>/snippets" in refused(tmp_path, train="nobody.h5")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no word; it must have one at least"),
        (b"the 3\ncaf\xe9 4", "is no text in UTF-8"),
        (b'{"a": 1, "a": 2}', "has the word 'a' twice; each must stand there once"),
        (b'{"a": 1.5}', "the word 'a' has the count 1.5; allowed are 0, 1, …"),
        (b'{"a": ', "cannot be read as JSON: "),
        (b"[" * 3, "line 1: is '[[['; allowed is a word and its count, 'the,12'"),
        (b'{"a":' + b"[" * 100_000, "cannot be read as JSON: "),
        (b"a,1\nb\n", "line 2: is 'b'; allowed is a word and its count, 'the,12'"),
        (b"a,1\na,2\n", "line 2: has the word 'a' again; each must stand there once"),
    ],
    ids=["empty", "bytes", "twice", "fraction", "cut", "list", "deep", "no count", "again"],
)
def test_what_is_refused_of_counts(tmp_path: Path, content: bytes, said: str) -> None:
    write(tmp_path / "train.h5", {"a": ["a b"]}, "tokens")
    (tmp_path / "counts").write_bytes(content)
    found = refused(tmp_path, train="train.h5", counts="counts", unit="words")
    assert found.startswith(f"problem.dataset.counts: {tmp_path / 'counts'}")
    assert said in found


def test_a_mark_before_counts_is_no_letter_of_a_word(tmp_path: Path) -> None:
    (tmp_path / "counts").write_bytes(codecs.BOM_UTF8 + b"the 3\na 2\n")
    assert Vocabulary.of_counts(tmp_path / "counts", "counts", 9).units == ("the", "a")


def test_counts_without_an_end_are_not_read_into_memory(tmp_path: Path) -> None:
    write(tmp_path / "train.h5", {"a": ["a b"]}, "tokens")
    with (tmp_path / "counts").open("wb") as file:
        file.truncate((1 << 30) + 1)
    said = refused(tmp_path, train="train.h5", counts="counts", unit="words")
    assert "counts: is longer than 1024 MiB" in said


@pytest.mark.parametrize(
    "keys",
    [{"alphabet": "aba"}, {"words": 5}, {"counts": "good.h5"}, {"unit": "words", "alphabet": "ab"}, {"field": "a/b"},
     {"length": 0}, {"test": 0.5, "validation": 0.5}],
    ids=str,
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    write(tmp_path / "good.h5", {"ada": ["ab"]})
    with pytest.raises(ValidationError):
        load(tmp_path, train="good.h5", **keys)


def test_a_client_is_not_looked_for_among_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 342,477 clients that would be 6·10¹⁰ comparisons of names."""

    class Names(tuple[str, ...]):
        def __contains__(self, name: object) -> bool:
            raise AssertionError(name)

    original = TextFile.look_at
    monkeypatch.setattr(TextFile, "look_at", lambda *of: replace(found := original(*of), names=Names(found.names)))
    write(tmp_path / "train.h5", {"a": ["ABCD"], "b": ["A"]})
    write(tmp_path / "test.h5", {"b": ["AB"], "c": ["D"]})
    found = load(tmp_path, train="train.h5", test="test.h5", length=3)
    assert [len(found.samples[client].test.y) for client in range(3)] == [0, 1, 1]


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="PPFL_DATA has no shakespeare40")
def test_shakespeare() -> None:
    """What is read is what the file says: all texts come back, character by character."""
    found = load(SHAKESPEARE.parent, train=SHAKESPEARE.name, test="shakespeare40_test.h5", validation=0.1)
    assert len(found.client_names) == 40
    with h5py.File(SHAKESPEARE) as file:
        texts = {name: [text.decode() for text in file[f"examples/{name}/snippets"][:]] for name in file["examples"]}
    alphabet = sorted({character for of_client in texts.values() for text in of_client for character in text})
    assert found.vocabulary_size == len(alphabet) + 4
    again = load(SHAKESPEARE.parent, train=SHAKESPEARE.name)
    for client, name in enumerate(again.client_names):
        train = again.samples[client].train
        ids = np.concatenate([train.x[:, :1], train.y], axis=1).ravel()
        read = "".join(alphabet[one - 1] for one in ids if 0 < one <= len(alphabet))
        assert read == "".join(texts[name])
