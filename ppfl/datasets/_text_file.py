"""Files of texts with a group a client: examples/<client>/<field>."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection

    from ppfl.interfaces.data_hdf5 import DataArray, DataGroup


@dataclass(frozen=True)
class TextFile:
    """An open file, whose texts are read client by client."""

    examples: DataGroup
    where: str
    """How messages begin."""
    field: str
    """What texts are called in this file."""
    names: tuple[str, ...]
    """Of its clients, sorted."""

    @classmethod
    def look_at(cls, root: DataGroup, field: str, where: str) -> TextFile:
        """Look who its clients are. Raises UserError where there is none."""
        examples = root.group("examples", f"{where}, examples")
        names = () if examples is None else examples.names()
        if examples is None or not names:
            raise UserError(f"{where} has no clients; the layout is examples/<client>/{field}")
        return cls(examples, where, field, names)

    def __contains__(self, name: str) -> bool:
        """Say whether it has a client of that name."""
        return name in self._names

    def of_these(self, names: Collection[str]) -> TextFile:
        """Return the same with these clients alone."""
        return replace(self, names=tuple(name for name in names if name in self))

    def count(self, name: str) -> int:
        """Return how many texts a client has, 0 when this file does not name it; damage alone is an error."""
        texts = self._array(name) if name in self else None
        return texts.shape[0] if texts is not None and texts.shape else 0

    def num_texts(self, name: str) -> int:
        """Return how many texts a client has, without reading them. Raises UserError as `read` does."""
        return self._texts(name).shape[0]

    def read(self, name: str, most: int | None = None) -> list[str]:
        """Return the texts of a client, or the first of them. Raises UserError for none, and for what is no text."""
        return self._texts(name).read_texts(most)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.names)

    def _texts(self, name: str) -> DataArray:
        texts = self._array(name)
        if not texts.shape or not texts.shape[0]:
            raise UserError(f"{texts.where}: has no text; a client needs one at least")
        return texts

    def _array(self, name: str) -> DataArray:
        where = f"{self.where}, client {name!r}"
        group = self.examples.group(name, where)
        texts = None if group is None else group.array(self.field, f"{where}, {self.field}")
        if texts is None:
            held = () if group is None else group.names()
            raise UserError(f"{where}: no {self.field}, but {', '.join(held) or 'nothing'}; `field` says which to read")
        return texts
