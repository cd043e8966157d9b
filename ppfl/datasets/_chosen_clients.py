"""The section `clients` of files with clients: who of them takes part, and with how many samples."""

from __future__ import annotations

import csv
import logging
from itertools import islice
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.core.plugins import Settings, refusal
from ppfl.core.rng import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

_HEADS = ("train_ids", "test_ids", "client_id")
"""First lines of published lists, which name nobody."""
_MAX_LIST_BYTES = 1 << 26
_SHOWN = 3
_DRAW = "clients"
"""Purpose of the draw."""


class Sizes(NamedTuple):
    """Samples that a client has in its files."""

    train: int
    """To train on, validation included."""
    test: int


def _file_or_names(value: object) -> str:
    return "names" if isinstance(value, list | tuple) else "file"


class Clients(Settings):
    """Those whose names are in `names` and who have enough samples; of them the first ones, or some that are drawn.

    Sizes are those of the files, whatever `max_samples` leaves of them.
    """

    names: (
        Annotated[
            Annotated[DataFile, Tag("file")]
            | Annotated[tuple[str, ...], Field(strict=False, min_length=1), Tag("names")],
            Discriminator(_file_or_names),
        ]
        | None
    ) = None
    """A list, or a text file with a name a line, in quotes or not; all of them must be there. null: all clients."""
    min_train: PositiveInt | None = None
    """Fewest samples to train on, validation included."""
    min_test: PositiveInt | None = None
    """Fewest samples to test on."""
    min_samples: PositiveInt | None = None
    """Fewest samples in all."""
    first: PositiveInt | None = None
    """So many, in the order of names."""
    draw: PositiveInt | None = None
    """So many, drawn by the seed of the data."""
    max_samples: PositiveInt | None = None
    """Samples of a client in each file at most: the first ones in it."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if all(getattr(self, key) is None for key in type(self).__pydantic_fields__):
            keys = ", ".join(type(self).__pydantic_fields__)
            raise refusal("", f"one of {keys} at least, or leave the section out")
        if self.first is not None and self.draw is not None:
            raise refusal("draw", "nothing beside `first`: either the first ones take part, or drawn ones")
        return self

    def choose(self, names: Sequence[str], sizes_of: Callable[[str], Sizes], seed: int) -> list[str]:
        """Return who takes part, in the order of names.

        names: of all clients, sorted. sizes_of: asked of no more clients than needed, since a file is opened for it.
        Raises UserError for a list with somebody who is not there, and where fewer remain than are asked for.
        """
        order = self._named(names)
        if self.draw is not None:
            order = [order[index] for index in generator(seed, _DRAW).permutation(len(order))]
        wanted = self.first or self.draw
        enough = order if not self._asks_for_samples else (name for name in order if self._suffices(sizes_of(name)))
        found = sorted(islice(enough, wanted))
        if len(found) < (wanted or 1):
            key = "draw" if self.draw else "first" if self.first else self._first_minimum
            asked = f"; {wanted} are asked for" if wanted else "; at least one must"
            raise UserError(f"problem.dataset.clients.{key}: {len(found)} of {len(names)} clients can take part{asked}")
        logger.info("problem.dataset.clients: %s of %s clients take part", f"{len(found):,}", f"{len(names):,}")
        return found

    def at_most(self, num_clients: int) -> int:
        """Return how many of so many clients can take part, without a look at their samples."""
        named = len(self.names) if isinstance(self.names, tuple) else num_clients
        return min(num_clients, named, self.first or num_clients, self.draw or num_clients)

    def _named(self, names: Sequence[str]) -> Sequence[str]:
        if self.names is None:
            return names
        where, wanted = "problem.dataset.clients.names", self.names
        if isinstance(wanted, DataFile):
            where = f"{where}: {wanted.path}"
            wanted = _listed(wanted, where)
        there = frozenset(names)
        if missing := [name for name in wanted if name not in there]:
            shown = ", ".join(map(repr, missing[:_SHOWN]))
            raise UserError(
                f"{where}: {len(missing)} of its {len(wanted)} names are no clients of the data, such as {shown}"
            )
        return sorted(set(wanted))

    @property
    def _asks_for_samples(self) -> bool:
        return any((self.min_train, self.min_test, self.min_samples))

    @property
    def _first_minimum(self) -> str:
        return next((key for key in ("min_train", "min_test", "min_samples") if getattr(self, key)), "names")

    def _suffices(self, sizes: Sizes) -> bool:
        return (
            sizes.train >= (self.min_train or 0)
            and sizes.test >= (self.min_test or 0)
            and sum(sizes) >= (self.min_samples or 0)
        )


def chosen(clients: Clients | None, names: Sequence[str], sizes_of: Callable[[str], Sizes], seed: int) -> Sequence[str]:
    """Return what `Clients.choose` does; without a section everybody."""
    return names if clients is None else clients.choose(names, sizes_of, seed)


def most_samples(clients: Clients | None) -> int | None:
    """Return how many samples of a client count in each file at most; None: all of them."""
    return None if clients is None else clients.max_samples


def _listed(file: DataFile, where: str) -> tuple[str, ...]:
    """Return the names of a text file with one a line. Raises UserError for what is no such file."""
    try:
        with file.path.open("rb") as opened:
            content = opened.read(_MAX_LIST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is no text in UTF-8; allowed is a name a line") from error
    except (OSError, MemoryError) as error:
        raise UserError(f"{where}: cannot be read: {error or type(error).__name__}") from error
    if len(content) > _MAX_LIST_BYTES:
        raise UserError(f"{where}: is longer than {_MAX_LIST_BYTES >> 20} MiB; allowed is a name a line")
    names = [_unquoted(line.rstrip("\r"), f"{where}, line {number}") for number, line in enumerate(text.split("\n"), 1)]
    if names and names[0] in _HEADS:
        del names[0]
    found = tuple(name for name in names if name)
    if not found:
        raise UserError(f"{where}: has no name; it must have one at least")
    return found


def _unquoted(line: str, where: str) -> str:
    """Return the name in a line, which may stand in double quotes as published lists have it."""
    if not line.startswith('"'):
        return line
    try:
        (name,) = next(csv.reader([line], strict=True))
    except (csv.Error, ValueError) as error:
        raise UserError(f"{where}: is {line[:80]!r}; allowed is one name, in double quotes or without") from error
    return name
