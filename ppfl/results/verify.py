"""`ppfl verify`: compares files with the checksums that they carry."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ppfl.core.errors import UserError
from ppfl.results.checkpoint_parts import examine_part, read_entry
from ppfl.results.hdf5 import NotHDF5Error
from ppfl.results.quick_reader import check
from ppfl.results.seal import DamagedError
from ppfl.results.tensor_file import open_checked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Verdict = Literal["ok", "has none", "does not match", "cannot be read"]
_CHECKPOINT = ".checkpoint"


@dataclass(frozen=True)
class Verified:
    """What came of one file."""

    path: Path
    verdict: Verdict
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.verdict}{f' ({self.reason})' if self.reason else ''}"


def verify(paths: Sequence[Path]) -> Iterator[Verified]:
    """Yield what came of files, and of all results, collections, parameters and checkpoints below folders.

    Raises UserError for a path that is not there.
    """
    for path in paths:
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"{path}: no such file or folder") from error
        except OSError as error:
            yield Verified(path, "cannot be read", error.strerror or "")
            continue
        if stat.S_ISDIR(mode):
            yield from _folder(path)
        elif path.suffix == ".json" and path.parent.name.endswith(_CHECKPOINT):
            yield from _checkpoint(path)
        else:
            yield _file(path)


def _folder(folder: Path) -> Iterator[Verified]:
    if folder.name.endswith(_CHECKPOINT):
        for entry in (folder / "current.json", folder / "previous.json"):
            try:
                entry.lstat()
            except FileNotFoundError:
                continue
            except OSError as error:
                yield Verified(entry, "cannot be read", error.strerror or "")
            else:
                yield from _checkpoint(entry)
        return
    try:
        with os.scandir(folder) as entries:
            is_folder = {folder / entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    except OSError as error:
        yield Verified(folder, "cannot be read", error.strerror or "")
        return
    for path in sorted(is_folder):
        if is_folder[path]:
            yield from _folder(path)
        elif path.suffix in (".h5", ".safetensors") and not path.name.startswith("."):
            yield _file(path)


def _checkpoint(path: Path) -> Iterator[Verified]:
    try:
        entry = read_entry(path)
    except OSError as error:
        yield Verified(path, "cannot be read", error.strerror or "")
        return
    except DamagedError as error:
        yield Verified(path, "does not match", str(error))
        return
    yield Verified(path, "ok")
    for part in entry["parts"]:
        file = path.parent / entry["folder"] / part["name"]
        try:
            examine_part(file.parent, part)
        except DamagedError as error:
            yield Verified(file, "does not match", str(error))
        else:
            yield Verified(file, "ok")


def _file(path: Path) -> Verified:
    try:
        has_seal = open_checked(path)[1] if path.suffix == ".safetensors" else check(path)
    except OSError as error:
        return Verified(path, "cannot be read", error.strerror or "")
    except NotHDF5Error:
        return Verified(path, "has none", "no file of ppfl")
    except DamagedError as error:
        return Verified(path, "does not match", str(error).removeprefix(f"{path}: "))
    except UserError as error:
        return Verified(path, "cannot be read", str(error).removeprefix(f"{path}: "))
    return Verified(path, "ok" if has_seal else "has none")
