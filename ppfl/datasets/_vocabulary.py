"""What the units of texts, characters or words, are called by: ids of a vocabulary, and four that every one has."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

PADDING = 0
NUM_SPECIAL = 4
"""Padding, out of vocabulary, begin and end."""
_MAX_COUNTS_BYTES = 1 << 30
"""Of a file of counts, which is read as a whole."""
_LINE = re.compile(r"(?P<word>\S.*?)[,\t ] *(?P<count>\d{1,18})")
_HEAD = re.compile(r"word[,\t ] *count")


@dataclass(frozen=True)
class Vocabulary:
    """W units with the ids 1 to W, in this order; 0 is padding, W + 1 all that is not in it, W + 2 begins a text, and
    W + 3 ends it.

    The layout of the tasks of TensorFlow Federated, so that 10,000 words have 10,004 ids.
    """

    units: tuple[str, ...]

    @property
    def size(self) -> int:
        """W + 4."""
        return len(self.units) + NUM_SPECIAL

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Return what each of the four is called by."""
        first = len(self.units) + 1
        return {"padding": PADDING, "out_of_vocabulary": first, "begin": first + 1, "end": first + 2}

    def ids(self, text: Sequence[str]) -> list[int]:
        """Return the ids of the units of a text."""
        unknown = len(self.units) + 1
        return [self._ids.get(unit, unknown) for unit in text]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {unit: number for number, unit in enumerate(self.units, start=1)}

    @classmethod
    def of_characters(cls, texts: Iterable[str]) -> Vocabulary:
        """All characters that there are, by their code points."""
        return cls(tuple(sorted({character for text in texts for character in text})))

    @classmethod
    def of_words(cls, texts: Iterable[Sequence[str]], most: int) -> Vocabulary:
        """The most frequent words; of equally frequent ones those that come first by their code points."""
        counts: Counter[str] = Counter()
        for words in texts:
            counts.update(words)
        return cls(tuple(sorted(counts, key=lambda word: (-counts[word], word))[:most]))

    @classmethod
    def of_counts(cls, path: Path, where: str, most: int) -> Vocabulary:
        """The most frequent words of a file of counts; of equally frequent ones those that stand first in it.

        Raises UserError, which begins with `where`, for what is no such file.
        """
        counts = _counts(path, where)
        if not counts:
            raise UserError(f"{where}: has no word; it must have one at least")
        return cls(tuple(sorted(counts, key=lambda word: -counts[word])[:most]))


def pieces(vocabulary: Vocabulary, text: str, length: int) -> np.ndarray:
    """Begin, characters, end, and padding up to a multiple of T + 1 ids, cut there: (pieces, T + 1) int64.

    Source: the next-character task on Shakespeare of TensorFlow Federated.
    """
    special = vocabulary.special_ids
    ids = [special["begin"], *vocabulary.ids(text), special["end"]]
    ids += [PADDING] * (-len(ids) % (length + 1))
    return np.array(ids, dtype=np.int64).reshape(-1, length + 1)


def num_pieces(text: str, length: int) -> int:
    """Return how many `pieces` makes of a text."""
    return -(-(len(text) + 2) // (length + 1))


def sentence(vocabulary: Vocabulary, words: Sequence[str], length: int) -> np.ndarray:
    """Begin, the first T words, end where there are fewer, and padding up to T + 1 ids: (1, T + 1) int64.

    Source: the next-word task on StackOverflow of TensorFlow Federated.
    """
    special = vocabulary.special_ids
    ids = [special["begin"], *vocabulary.ids(words[:length])]
    if len(words) < length:
        ids.append(special["end"])
    ids += [PADDING] * (length + 1 - len(ids))
    return np.array([ids], dtype=np.int64)


def words_of(text: str) -> list[str]:
    """Return what stands between blanks."""
    return [word for word in text.split(" ") if word]


def _counts(path: Path, where: str) -> dict[str, int]:
    try:
        if path.stat().st_size > _MAX_COUNTS_BYTES:
            raise UserError(
                f"{where}: is longer than {_MAX_COUNTS_BYTES >> 20} MiB; allowed are words and their counts"
            )
        text = path.read_text(encoding="utf-8-sig")  # with or without the mark that some programs begin with
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is no text in UTF-8") from error
    except (OSError, MemoryError) as error:
        raise UserError(f"{where}: cannot be read: {error or type(error).__name__}") from error
    return _of_json(text, where) if text.lstrip().startswith("{") else _of_lines(text, where)


def _of_json(text: str, where: str) -> dict[str, int]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = next((word for word, number in Counter(word for word, _ in pairs).items() if number > 1), None)
        if repeated is not None:
            raise UserError(f"{where}: has the word {repeated!r} twice; each must stand there once")
        return dict(pairs)

    try:
        counts = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: cannot be read as JSON: {error}") from error
    for word, count in counts.items():
        if type(count) is not int or count < 0 or not word:
            raise UserError(f"{where}: the word {word!r} has the count {count!r}; allowed are 0, 1, …")
    return dict(counts)


def _of_lines(text: str, where: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line or (number == 1 and _HEAD.fullmatch(line)):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise UserError(f"{where}, line {number}: is {line[:80]!r}; allowed is a word and its count, 'the,12'")
        if found["word"] in counts:
            raise UserError(f"{where}, line {number}: has the word {found['word']!r} again; each must stand there once")
        counts[found["word"]] = int(found["count"])
    return counts
