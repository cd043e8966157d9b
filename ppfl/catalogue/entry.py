"""What the catalogue says of a data set. Every address, hash and count stands beside the file that it is taken from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppfl.catalogue.counted import Counted


@dataclass(frozen=True)
class Source:
    """A file of a public repository, at a commit."""

    repository: str
    path: str
    commit: str
    """40 hexadecimal digits."""

    def __str__(self) -> str:
        return f"{self.repository}, {self.path}, commit {self.commit[:12]}"


@dataclass(frozen=True)
class Download:
    """A file at an address."""

    address: str
    source: Source
    """Of the address, and of what else is known about the file."""
    hashed: str | None = None
    """As algorithm:digits; None where no hash is published: that of the first download is kept."""
    num_bytes: int | None = None
    members: Mapping[str, str] = field(default_factory=dict)
    """Of an archive: what is taken out of it, by its name there, and what it is called here."""

    @property
    def name(self) -> str:
        """Return what the file is called."""
        return self.address.rsplit("/", 1)[-1]

    @property
    def files(self) -> list[str]:
        """Return what there is to read in the end."""
        return list(self.members.values()) or [self.name]


@dataclass(frozen=True)
class Published:
    """A file to read, and what is published about what is in it."""

    name: str
    count: Callable[[Path], Counted]
    facts: Mapping[str, int | str]
    source: Source
    is_made: bool = False
    """By `ppfl data convert`, of what was fetched."""


@dataclass(frozen=True)
class Rule:
    """How many clients have at least so many samples, as a study that takes these says."""

    num_clients: int
    source: Source
    train: int = 0
    test: int = 0
    total: int = 0
    train_file: str = ""
    test_file: str = ""

    def __str__(self) -> str:
        wanted = {"training": self.train, "test": self.test, "": self.total}
        asked = [f"{number} {what} samples".replace("  ", " ") for what, number in wanted.items() if number]
        return f"clients with at least {' and '.join(asked)}"


@dataclass(frozen=True)
class DataSet:
    """A data set of the catalogue. One file of `ppfl/catalogue/sets` each, which has one as `DATA_SET`."""

    about: str
    """A line."""
    downloads: tuple[Download, ...]
    published: tuple[Published, ...]
    section: str
    """The section `dataset` of a configuration that reads it; the partition of a centralized one is an example."""
    write_tiny: Callable[[Path], object]
    """Write made-up files with the same names and fields into a folder."""
    rules: tuple[Rule, ...] = ()
    afterwards: str = ""
    """What there is left to do when it has been fetched."""
