"""Federated texts in HDF5, in the layout of the public ones, as sequences of tokens."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from ppfl.core.agree import SharedUserError, on_every_rank
from ppfl.core.data_file import DataFile
from ppfl.core.plugins import refusal
from ppfl.datasets._chosen_clients import Clients, Sizes, chosen, most_samples
from ppfl.datasets._text_file import TextFile
from ppfl.datasets._vocabulary import NUM_SPECIAL, Vocabulary, num_pieces, pieces, sentence, words_of
from ppfl.interfaces.dataset import ClientSamples, Dataset, FederatedSamples, Parts, Samples, deal, refuse_parts
from ppfl.interfaces.file_or_fraction import Fraction, file_or_fraction, parts_beside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ppfl.core.plugins import Example
    from ppfl.interfaces.placement import Placement

_FIELDS = {"characters": "snippets", "words": "tokens"}
_LENGTHS = {"characters": 80, "words": 20}


class TextHDF5(Dataset):
    """Texts of clients, in the order of their names, in files with examples/<client>/<field>: UTF-8, of fixed or
    variable length. A sample is T + 1 neighbouring ids: x are the first T, and y, the next of each, the last T of them.

    Characters: every text begins and ends with ids for that, is filled up with padding to a multiple of T + 1, and cut
    there. Words, between blanks: a text is one sample, of its first T words; it ends with the id for that where it has
    fewer. Ids: 0 padding, 1 to W the vocabulary, W + 1 what is not in it, W + 2 begin, W + 3 end.
    Source of layout and ids: the data sets and tasks Shakespeare and StackOverflow of TensorFlow Federated.
    """

    name: Literal["text_hdf5"]
    example: ClassVar[Example] = {
        "train": "train.h5", "test": "test.h5", "unit": "characters", "length": 6,
    }  # fmt: skip
    silent: ClassVar[frozenset[str]] = frozenset({"clients"})
    train: DataFile
    """File of the texts to train on, from which validation samples are taken."""
    test: Annotated[Annotated[DataFile, Tag("file")] | Fraction, Discriminator(file_or_fraction)] = 0.2
    """File of the texts to test on; or, without one, the fraction of each client's samples, rounded down."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of each client's samples in `train` kept for choosing hyperparameters, rounded down."""
    unit: Literal["characters", "words"]
    """What a token is."""
    field: Annotated[str, Field(min_length=1, pattern=r"^[^/]+$")] | None = None
    """What texts are called in the files; null: snippets for characters, tokens for words."""
    length: PositiveInt | None = None
    """T, tokens of a sample; null: 80 characters, or 20 words."""
    alphabet: Annotated[str, Field(min_length=1)] | None = None
    """The characters of the vocabulary, in the order of their ids; null: those of `train`, by code points."""
    words: PositiveInt = 10_000
    """W, words of the vocabulary at most: the most frequent ones."""
    counts: DataFile | None = None
    """How often words occur, as JSON {word: count} or in lines `word,count`; null: counted in `train`."""
    clients: Clients | None = None
    """Who takes part; null: all clients of the files. A vocabulary that is made of texts is made of theirs."""

    @model_validator(mode="after")
    def _something_to_train_on(self) -> TextHDF5:
        refuse_parts(parts_beside(self.test, self.validation))
        return self

    @model_validator(mode="after")
    def _fits_the_unit(self) -> TextHDF5:
        foreign = ("words", "counts") if self.unit == "characters" else ("alphabet",)
        for key in foreign:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise refusal(key, f"nothing, since a token is one of the {self.unit}")
        if self.alphabet is not None and len(set(self.alphabet)) < len(self.alphabet):
            twice = next(one for one in self.alphabet if self.alphabet.count(one) > 1)
            raise refusal("alphabet", f"every character once; {twice!r} stands there again")
        if self.normalize is not None:
            raise refusal("normalize", "nothing, since samples are tokens")
        return self

    def load(self, placement: Placement, clients_per_chunk: int | None) -> FederatedSamples:
        """Read the vocabulary, and the texts of this rank's own clients. Collective.

        Raises UserError for files without this layout, bytes that are no text, clients without one, and a file none
        of whose tokens is in the vocabulary.
        """
        import torch

        found, known = on_every_rank(placement.communicator, lambda: self._read(placement, clients_per_chunk))
        of_all = placement.communicator.allreduce(torch.from_numpy(known), "sum").tolist()
        for key, (num_known, number) in zip(("train", "test"), of_all, strict=True):
            if number and not num_known:
                where = f"problem.dataset.{key}: {getattr(self, key).path}, {self._field}"
                size = found.vocabulary_size
                raise SharedUserError(f"{where}: none of its {number} {self.unit} is in the vocabulary of {size} ids")
        return found

    def _read(self, placement: Placement, clients_per_chunk: int | None) -> tuple[FederatedSamples, np.ndarray]:
        """Return also, (2, 2), how many units of either file are known, and how many there are."""
        with ExitStack() as stack:
            train, test = self._look_at(stack, placement.data_seed)
            vocabulary = self._vocabulary(train, train.names)
            cutter = _Cutter(vocabulary, self.unit, self._length, most_samples(self.clients))
            num_train = cutter.sizes(train, train.names)
            num_test = cutter.sizes(test, test.names) if test is not None else {}
            names = sorted({*num_train, *num_test})
            parts = self._parts
            sizes = [parts.num_samples(num_train.get(name, 0)) for name in names]
            if test is not None:
                sizes = [(*size[:2], num_test.get(name, 0)) for size, name in zip(sizes, names, strict=True)]
            known = np.zeros((2, 2), dtype=np.int64)

            def of_client(client: int) -> ClientSamples:
                name = names[client]
                of_train = cutter.samples(train, name)
                known[0] += cutter.num_known(of_train)
                cut = parts.cut(of_train, placement.data_seed, client)
                if test is None:
                    return cut
                of_test = cutter.samples(test, name)
                known[1] += cutter.num_known(of_test)
                return cut._replace(test=of_test)

            found = deal(
                placement, clients_per_chunk, names, sizes, of_client, (self._length,), 1.0,
                vocabulary_size=vocabulary.size, label_shape=(self._length,), special_ids=vocabulary.special_ids,
                labels_from=f"{train.where}, {self._field}", test_from=(test or train).where,
            )  # fmt: skip
            return found, known

    def _look_at(self, stack: ExitStack, seed: int) -> tuple[TextFile, TextFile | None]:
        """Open the files until the stack unwinds, with the clients that take part."""
        train = self._open(self.train, "train", stack)
        test = self._open(self.test, "test", stack) if isinstance(self.test, DataFile) else None
        if self.clients is None:
            return train, test

        def sizes_of(name: str) -> Sizes:
            in_train = _num_samples(train, name, self.unit, self._length)
            if test is not None:
                return Sizes(in_train, _num_samples(test, name, self.unit, self._length))
            num_train, num_validation, num_test = self._parts.num_samples(in_train)
            return Sizes(num_train + num_validation, num_test)

        names = chosen(self.clients, sorted({*train.names, *(test.names if test else ())}), sizes_of, seed)
        return train.of_these(names), test and test.of_these(names)

    def outline(self, most: int) -> TextOutline:
        """Return what it has by a look at so many clients, at the most; raises UserError as `load` does."""
        with ExitStack() as stack:
            train = self._open(self.train, "train", stack)
            files = [train, *([self._open(self.test, "test", stack)] if isinstance(self.test, DataFile) else [])]
            seen = train.names[:most]
            vocabulary = self._vocabulary(train, seen)
            # words go on, others' characters are much the same
            goes_on = self.unit == "words" and self.counts is None and len(seen) < len(train.names)
            num_ids = self.words + NUM_SPECIAL if goes_on else vocabulary.size
            max_samples = most_samples(self.clients)
            cutter, parts = _Cutter(vocabulary, self.unit, self._length, max_samples), self._parts
            sizes = [list(cutter.sizes(file, file.names[:most]).values()) for file in files]
            num_clients = len({*files[0].names, *files[-1].names})
            taking_part = self.clients.at_most(num_clients) if self.clients else num_clients
            num_samples = sum(sum(seen) / len(seen) * len(file.names) for seen, file in zip(sizes, files, strict=True))
            return TextOutline(
                taking_part,
                num_samples * taking_part / num_clients,
                parts.num_samples(max(sizes[0]))[0],
                self._length,
                num_ids,
            )

    def _open(self, data_file: DataFile, key: str, stack: ExitStack) -> TextFile:
        from ppfl.interfaces.data_hdf5 import open_data

        where = f"problem.dataset.{key}: {data_file.path}"
        return TextFile.look_at(stack.enter_context(open_data(data_file.path, where)), self._field, where)

    def _vocabulary(self, train: TextFile, names: Sequence[str]) -> Vocabulary:
        if self.alphabet is not None:
            return Vocabulary(tuple(self.alphabet))
        if self.counts is not None:
            return Vocabulary.of_counts(self.counts.path, f"problem.dataset.counts: {self.counts.path}", self.words)
        # on every rank alike: ids must not depend on who reads whose texts
        texts = (text for name in names for text in train.read(name))
        if self.unit == "characters":
            return Vocabulary.of_characters(texts)
        return Vocabulary.of_words(map(words_of, texts), self.words)

    @property
    def _parts(self) -> Parts:
        return parts_beside(self.test, self.validation)

    @property
    def _field(self) -> str:
        return self.field or _FIELDS[self.unit]

    @property
    def _length(self) -> int:
        return self.length or _LENGTHS[self.unit]


@dataclass(frozen=True)
class TextOutline:
    """What a data set has, of those of its clients that were looked at, and as much of the others."""

    num_clients: int
    num_samples: float
    most_to_train_on: int
    """Samples of the largest client."""
    length: int
    """T."""
    num_ids: int
    """Of the vocabulary."""


def _num_samples(file: TextFile, name: str, unit: str, length: int) -> int:
    """Return how many samples a client has in a file, which may not name it."""
    number = file.count(name)
    return number if unit == "words" or not number else sum(num_pieces(text, length) for text in file.read(name))


@dataclass(frozen=True)
class _Cutter:
    """Makes samples of texts."""

    vocabulary: Vocabulary
    unit: str
    length: int
    most: int | None
    """Samples of a client in a file."""

    def sizes(self, file: TextFile, names: Sequence[str]) -> dict[str, int]:
        """Return how many samples clients have, by name."""
        if self.unit == "words":
            found = {name: file.num_texts(name) for name in names}
        else:
            found = {name: sum(num_pieces(text, self.length) for text in file.read(name)) for name in names}
        return {name: min(size, self.most or size) for name, size in found.items()}

    def samples(self, file: TextFile, name: str) -> Samples:
        """Return the samples of a client; none when this file does not name it."""
        # a text is one sample at least
        found = list(self._cut(file.read(name, self.most))) if name in file else []
        ids = np.concatenate([np.empty((0, self.length + 1), np.int64), *found])[: self.most]
        # x waits in memory as it is here until it is drawn, at half the size; torch takes labels as int64 alone
        return Samples(ids[:, :-1].astype(np.int32), ids[:, 1:].copy())

    def num_known(self, samples: Samples) -> list[int]:
        """Return how many labels are of the vocabulary, and of these and those that are not."""
        known = int(((samples.y > 0) & (samples.y <= len(self.vocabulary.units))).sum())
        return [known, known + int((samples.y == self.vocabulary.special_ids["out_of_vocabulary"]).sum())]

    def _cut(self, texts: list[str]) -> Iterator[np.ndarray]:
        for text in texts:
            if self.unit == "words":
                yield sentence(self.vocabulary, words_of(text), self.length)
            else:
                yield pieces(self.vocabulary, text, self.length)
