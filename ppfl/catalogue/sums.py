"""SHA256SUMS: the hashes of the files of a folder, as `sha256sum --check` reads them."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain, write_whole

if TYPE_CHECKING:
    from pathlib import Path

NAME = "SHA256SUMS"
_LINE = re.compile(r"(?P<digits>[0-9a-f]{64})  (?P<name>[^/\n]+)")
_PIECE_BYTES = 1 << 22


def hash_of(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digits. Raises OSError."""
    digest = hashlib.new(algorithm)
    with open_plain(path) as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def recorded(folder: Path) -> dict[str, str]:
    """Return the hash of each file that is on record. Raises UserError for lines that are none."""
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text in UTF-8") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        if (one := _LINE.fullmatch(line)) is None:
            raise UserError(f"{path}, line {number}: is {line[:90]!r}; allowed are 64 digits, two blanks and a name")
        found[one["name"]] = one["digits"]
    return found


def compare_or_record(path: Path) -> None:
    """Compare a file with what is on record of it, or put it there. Raises UserError for another one, OSError."""
    known, digits = recorded(path.parent), hash_of(path)
    if path.name not in known:
        lines = [f"{sha256}  {name}\n" for name, sha256 in sorted({**known, path.name: digits}.items())]
        write_whole(path.parent / NAME, "".join(lines).encode())
    elif known[path.name] != digits:
        raise UserError(
            f"{path}: was altered: its sha256 is {digits}, and was {known[path.name]} when it came ({NAME} beside it); "
            f"remove it to have it anew, or its line in {NAME} to keep it"
        )
