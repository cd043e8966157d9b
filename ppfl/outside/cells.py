"""Classes that are registered in a running process, such as those of a notebook's cells."""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import textwrap
from types import FunctionType
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.core.plugins import PlugIn, name_of
from ppfl.outside.folder import refuse_name
from ppfl.outside.installed import installed, package_of
from ppfl.outside.origin import ROOMS, Origin, check_fits, note_origin, room_of

if TYPE_CHECKING:
    from ppfl.outside.folder import Found

_registered: Found = {}


def registered() -> Found:
    """Return what was registered so far."""
    return dict(_registered)


def register(kind: type[PlugIn]) -> None:
    """Let configurations of this process name a class; one of the same name that was registered before is replaced.

    Its source becomes part of the digest of the runs that use it. Raises UserError for what is no plug-in, for a name
    that exists already, and for a class without source.
    """
    if not (isinstance(kind, type) and issubclass(kind, PlugIn)) or (room := room_of(kind)) is None:
        allowed = ", ".join(base.__name__ for base in ROOMS.values())
        raise UserError(f"{getattr(kind, '__name__', kind)}: no plug-in; allowed: a subclass of {allowed}")
    if not (name := name_of(kind)):
        raise UserError(f'{kind.__name__}: has no name; allowed: a field `name: Literal["..."]`')
    refuse_name(room, name, kind.__name__)
    if (room, name) in installed():
        whose = package_of(installed()[room, name])
        raise UserError(
            f"{kind.__name__}: {room} has one called {name!r}, which comes with {whose}; allowed: another name"
        )
    try:
        check_fits(kind, room)
    except TypeError as error:
        raise UserError(str(error)) from error
    sha256 = hashlib.sha256(_source(kind).encode()).hexdigest()
    where = f"class {kind.__name__}, registered in this process"
    note_origin(kind, Origin(f"{room}/{name}", where, {"source": sha256}, is_of_this_process=True))
    _registered[room, name] = kind


def _source(kind: type[PlugIn]) -> str:
    """Return the source of a class. Raises UserError where nobody has it."""
    found = _source_around(kind)
    if found is None:
        try:
            found = inspect.getsource(kind)
        except (OSError, TypeError) as error:
            allowed = "a class of a notebook's cell or of a file"
            raise UserError(f"{kind.__name__}: has no source to be hashed; allowed: {allowed}") from error
    return textwrap.dedent(found)


def _source_around(kind: type[PlugIn]) -> str | None:
    """Return the source of a class by the code of one of its methods: notebooks keep the text of a cell, but Python
    before 3.13 asks for the file of the class's module, which a notebook has not."""
    functions = [value for value in vars(kind).values() if isinstance(value, FunctionType)]
    # others are borrowed: they were defined somewhere else
    for function in (one for one in functions if one.__qualname__.startswith(f"{kind.__qualname__}.")):
        text = "".join(linecache.getlines(function.__code__.co_filename))
        try:
            tree = ast.parse(text)
        except SyntaxError:  # the file has been edited meanwhile
            continue
        line = function.__code__.co_firstlineno
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef) or node.name != kind.__name__:
                continue
            if node.lineno <= line <= (node.end_lineno or node.lineno):
                return ast.get_source_segment(text, node, padded=True)
    return None
