"""Files of texts with a group a client: examples/<client>/<field>."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError

if TYPE_CHECKING:
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

    def num_texts(self, name: str) -> int:
        """Return how many texts a client has, without reading them. Raises UserError as `read` does."""
        return self._texts(name).shape[0]

    def read(self, name: str) -> list[str]:
        """Return the texts of a client. Raises UserError where it has none, or what is no text."""
        return self._texts(name).read_texts()

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.names)

    def _texts(self, name: str) -> DataArray:
        where = f"{self.where}, client {name!r}"
        group = self.examples.group(name, where)
        texts = None if group is None else group.array(self.field, f"{where}, {self.field}")
        if texts is None:
            held = () if group is None else group.names()
            raise UserError(f"{where}: no {self.field}, but {', '.join(held) or 'nothing'}; `field` says which to read")
        if not texts.shape or not texts.shape[0]:
            raise UserError(f"{where}, {self.field}: has no text; a client needs one at least")
        return texts
