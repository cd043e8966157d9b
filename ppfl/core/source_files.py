"""Python files that a configuration names, with what they import from their folder: read once, imported as read.

The same bytes are hashed and executed, and a module of the folder that was not read cannot be imported: so the hash
tells all of the folder that can decide a result, whoever edits it meanwhile. A file is told apart by its content, and
another content is another module: in a notebook an edited file is a new class, and the old one stays what it was.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import sys
import traceback
from dataclasses import dataclass
from functools import cached_property
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, spec_from_loader
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

_PREFIX = "ppfl_plug_in_"
Files = TypeVar("Files", bound="SourceFiles")


@dataclass(frozen=True)
class SourceFiles:
    """A file and those that it imports from a folder, with their content."""

    folder: Path
    """Where imports are looked up."""
    module: str
    """The file's own path below the folder, without `.py`."""
    contents: Mapping[str, bytes]
    """By path below the folder."""

    @property
    def path(self) -> Path:
        """Return the file itself."""
        return self.folder / f"{self.module}.py"

    @cached_property
    def sha256(self) -> str:
        """Hash of all files, 64 hexadecimal digits; where the folder is does not matter."""
        return _hash(*(part for path in sorted(self.contents) for part in (os.fsencode(path), self.contents[path])))

    @cached_property
    def package(self) -> str:
        """The name under which the folder is imported for these files alone."""
        return _PREFIX + _hash(os.fsencode(self.path), self.sha256.encode())[:16]

    def import_module(self) -> ModuleType:
        """Return the file as a module. Raises UserError, with the line, where it cannot be imported."""
        # kept for good: functions that were imported import more when they are called
        _known[self.package] = self
        if _FINDER not in sys.meta_path:
            sys.meta_path.append(_FINDER)
        try:
            return importlib.import_module(f"{self.package}.{self.module.replace('/', '.')}")
        except SyntaxError as error:
            raise UserError(_not_python(error.filename or self.path, error)) from error
        except (Exception, SystemExit) as error:
            raise UserError(self._why(error)) from error

    def where(self, error: BaseException) -> str:
        """Return the last line of these files that an error went through."""
        lines = self._lines(error)
        return f"{lines[-1].filename}: line {lines[-1].lineno}" if lines else str(self.path)

    def has_run(self, error: BaseException) -> bool:
        """Return whether an error went through a line of these files."""
        return bool(self._lines(error))

    def _lines(self, error: BaseException) -> list[traceback.FrameSummary]:
        ours = {str(self.folder / path) for path in self.contents}
        return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in ours]

    def _why(self, error: BaseException) -> str:
        """Return what went wrong while a file was imported, where, and what to do."""
        where = self.where(error)
        reason = str(error).split("\n", 1)[0].replace(f"{self.package}.", "").strip()
        if not isinstance(error, ImportError):
            return f"{where}: cannot be imported: {type(error).__name__}: {reason}"
        if not isinstance(error, ModuleNotFoundError):
            return f"{where}: {reason}"
        name = error.name or ""
        if name.startswith(self.package):
            file = f"{name.removeprefix(self.package).strip('.').replace('.', '/')}.py"
            if (self.folder / file).is_file():
                return f"{where}: {file} is imported so that the source does not show it; `from . import ...` does"
            return f"{where}: no {file} in {self.folder}"
        if (self.path.parent / f"{name}.py").is_file():
            return f"{where}: {reason}; `from . import {name}` imports the file beside it"
        return f"{where}: {reason}; install it, or take the import out"

    def __reduce__(self) -> tuple[Any, ...]:
        """Take the content along."""
        return known_again, (type(self), self.folder, self.module, dict(self.contents))


def known_again(kind: type[Files], folder: Path, module: str, contents: Mapping[str, bytes]) -> Files:
    """Return files that were read in another process, those of this one where it has them."""
    files = kind(folder, module, contents)
    found = _known.get(files.package)
    return found if type(found) is kind else files


def read_sources(path: Path, folder: Path) -> dict[str, bytes]:
    """Read a file and, one after another, what is imported from the folder, also inside of functions.

    Raises UserError for files that cannot be read or are not Python.
    """
    contents: dict[str, bytes] = {}
    left = [path]
    while left:
        one = left.pop()
        name = one.relative_to(folder).as_posix()
        try:
            if name in contents or not one.is_file():
                continue
            contents[name] = one.read_bytes()
            tree = ast.parse(contents[name], str(one))
        except OSError as error:
            raise UserError(f"{one}: cannot be read: {error.strerror}") from error
        except (SyntaxError, ValueError) as error:  # a ValueError: null bytes, in Python before 3.11.4
            raise UserError(_not_python(one, error)) from error
        left += [found for found in _imported(tree, one, folder) if found.is_relative_to(folder)]
    return contents


def _not_python(path: Path | str, error: SyntaxError | ValueError) -> str:
    line = getattr(error, "lineno", None)
    return f"{path}: {f'line {line}: ' if line else ''}not Python: {getattr(error, 'msg', error)}"


def _imported(tree: ast.Module, path: Path, folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that a file may import: some of them need not exist."""
    yield from (above / "__init__.py" for above in path.parents if above.is_relative_to(folder))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            # from .. import a: one folder up for every dot but the first
            starts = [path.parents[node.level - 1]] if 0 < node.level <= len(path.parents) else [path.parent, folder]
            for start in starts:
                yield from _files_of(start, module, [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                # found only where the folder is in Python's own path, which it may be
                yield from (file for start in (path.parent, folder) for file in _files_of(start, alias.name.split(".")))


def _files_of(start: Path, module: Sequence[str], names: Sequence[str] = ()) -> Iterator[Path]:
    for end in range(1, len(module) + 1):
        yield start.joinpath(*module[: end - 1], f"{module[end - 1]}.py")
        yield start.joinpath(*module[:end], "__init__.py")
    for name in names:
        yield start.joinpath(*module, f"{name}.py")
        yield start.joinpath(*module, name, "__init__.py")


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        # lengths, too, or bytes that move from the end of a file to the next name would not be seen
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


_known: dict[str, SourceFiles] = {}
"""By the name of the package."""


class _Finder(MetaPathFinder):
    """Finds modules among what was read."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        files = _known.get(package)
        if files is None:
            return None
        place = PurePosixPath(*rest.split(".")) if rest else PurePosixPath()
        module, package = f"{place}.py", str(place / "__init__.py")
        if module in files.contents and package not in files.contents:
            return spec_from_loader(fullname, _Loader(files, module), is_package=False)
        # Python imports folders without __init__.py as well
        if not any(PurePosixPath(one).is_relative_to(place) for one in files.contents):
            return None
        spec = spec_from_loader(fullname, _Loader(files, package), is_package=True)
        if spec is not None:
            spec.submodule_search_locations = []  # nobody else is to look into the folder itself
        return spec


class _Loader(ExecutionLoader):
    """Gives out one file."""

    def __init__(self, files: SourceFiles, name: str) -> None:
        self._files = files
        self._name = name

    def is_package(self, fullname: str) -> bool:
        return self._name.endswith("__init__.py")

    def get_filename(self, fullname: str) -> str:
        return str(self._files.folder / self._name)

    def get_source(self, fullname: str) -> str:
        return decode_source(self._files.contents.get(self._name, b""))


_FINDER = _Finder()
