"""Settings that validate themselves: the base of everything that has a name in a YAML file.

A plug-in is a frozen value: its fields are the keys of its section in the configuration, its methods are the
mathematics. One file in a plug-in folder defines one plug-in, and the file is called what the plug-in is called.
Others come from outside of the package (`ppfl.outside`), and which of those there are is asked anew for each section.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

if TYPE_CHECKING:
    from types import ModuleType

    from pydantic import ValidationInfo
    from pydantic.json_schema import JsonSchemaValue

Example: TypeAlias = Mapping[str, Any]
"""Settings that some plug-in can be tried out with."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""


class Settings(BaseModel):
    """A frozen, strictly typed section of a configuration; unknown keys, NaN and inf are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    silent: ClassVar[frozenset[str]] = frozenset()
    """Keys that are left out of the digest of a run, and of what is written of it, where they are at their defaults:
    the digests of runs that say nothing of them are older than they are."""

    def silent_keys(self) -> dict[str, Any]:
        """Return these, of this section and of those in it, as pydantic's `exclude` takes them."""
        kind = type(self)
        fields = kind.__pydantic_fields__
        found: dict[str, Any] = {
            key: True for key in _silent_of(kind) if _is_default(getattr(self, key), fields[key].default)
        }
        for key in fields:
            section = getattr(self, key)
            if isinstance(section, Settings) and key not in found and (below := section.silent_keys()):
                found[key] = below
        return found


@cache
def _silent_of(kind: type[Settings]) -> frozenset[str]:
    """Return the keys that a class and its bases name."""
    return frozenset().union(*(vars(base).get("silent", ()) for base in kind.__mro__))


def _is_default(value: Any, default: Any) -> bool:
    # the default of a section with a name is a mapping, so that no plug-in is imported for it
    if isinstance(value, PlugIn) and isinstance(default, Mapping):
        return value.name == default["name"] and value == type(value).model_validate(default)
    return bool(value == default)


def refusal(where: str, allowed: str) -> PydanticCustomError:
    """Build the error that a validator raises for fields that do not go together.

    `where` is the field to change, below the section that validates ("" for the validated value itself); `allowed`
    says what would be accepted there, without repeating the value given.
    """
    return PydanticCustomError("refusal", "{allowed}", {"where": where, "allowed": allowed})


def _is_no_setting(given: Any) -> Any:
    raise PydanticKnownError("extra_forbidden")  # what any key that is not known gets


Constant = TypeVar("Constant")
Resolved = Annotated[Constant, Field(exclude=True), SkipJsonSchema(), BeforeValidator(_is_no_setting)]
"""A field that `resolve` fills in: `kappa: Resolved[float] = 0.0`, then `self.model_copy(update={"kappa": ...})`.

It is part of the value, so that values which differ in it are told apart, but no setting: a configuration that names it
is refused, and neither the schema nor the digest of a run knows of it.
"""


class PlugIn(Settings):
    """A section chosen by its `name` key; the subclass in `<folder>/<name>.py` says `name: Literal["<name>"]`."""

    name: str

    example: ClassVar[Example] = {}
    """Settings beside the name with which it can be tried out; the tests of a folder use those of its plug-ins."""


class Outside(Protocol):
    """Plug-ins that do not come with the package; `package` is the folder that they would be in, "ppfl.algorithms".

    One never changes: schemas are kept for it.
    """

    def __hash__(self) -> int:
        """Return what tells it apart from others."""
        ...

    def names(self, package: str) -> Collection[str]:
        """Return what they are called."""
        ...

    def find(self, package: str, name: str) -> type[PlugIn] | None:
        """Return the one of this name, None where there is none."""
        ...


_outside: ContextVar[Outside | None] = ContextVar("plug-ins from outside", default=None)


@contextmanager
def joined_by(outside: Outside) -> Iterator[None]:
    """Let sections name these, too."""
    token = _outside.set(outside)
    try:
        yield
    finally:
        _outside.reset(token)


def plug_ins_from_outside() -> Outside | None:
    """Return those that sections may name now, beside the package's own."""
    return _outside.get()


@cache
def names_inside(package: str) -> tuple[str, ...]:
    """Return the names of the plug-ins in a folder of the package, such as "ppfl.algorithms"; none is imported."""
    path = importlib.import_module(package).__path__
    return tuple(found.name for found in pkgutil.iter_modules(path) if not found.name.startswith("_"))


def find(package: str, name: str) -> type[PlugIn] | None:
    """Return the plug-in that a section means by this name; its file alone is imported. None: there is no such one."""
    if name in names_inside(package):
        return _inside(package, name)
    outside = _outside.get()
    return outside.find(package, name) if outside is not None else None


def discover(package: str) -> dict[str, type[PlugIn]]:
    """Return {name: class} of all plug-ins that a section may name, of a folder such as "ppfl.algorithms".

    Raises TypeError when a file does not define exactly one plug-in with the name of the file: a mistake of whoever
    wrote the file, not of whoever wrote the configuration.
    """
    outside = _outside.get()
    names = (*names_inside(package), *(outside.names(package) if outside is not None else ()))
    found = {name: find(package, name) for name in names}
    return {name: kind for name, kind in found.items() if kind is not None}


@cache
def _inside(package: str, name: str) -> type[PlugIn]:
    module = importlib.import_module(f"{package}.{name}")
    try:
        return only_plug_in(module, name)
    except TypeError as error:
        raise TypeError(f"{module.__file__}: {error}") from None


def only_plug_in(module: ModuleType, name: str) -> type[PlugIn]:
    """Return the plug-in that a module defines. Raises TypeError unless it is one, and has this name."""
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, PlugIn) and value.__module__ == module.__name__
    ]
    named = [kind for kind in classes if name_of(kind)]
    if [name_of(kind) for kind in named] != [name]:
        found = ", ".join(f"{kind.__name__} ({name_of(kind) or 'without name'})" for kind in classes)
        raise TypeError(
            f'a plug-in file defines exactly one class with `name: Literal["{name}"]`, found {found or "none"}'
        )
    return named[0]


def name_of(kind: type[PlugIn]) -> str:
    """Return what a class says that it is called, "" where it does not say so itself."""
    if "name" not in kind.__annotations__:
        return ""
    literal = getattr(kind.__pydantic_fields__["name"].annotation, "__args__", ("",))
    return literal[0] if len(literal) == 1 and isinstance(literal[0], str) else ""


class ChosenFrom:
    """Annotation of a field that takes any plug-in of a folder: `Annotated[Base, ChosenFrom("ppfl.algorithms")]`.

    Looked up when a section is validated, not when the class with the field is made: a plug-in that is registered later
    can be named at once, and only those that are named are imported.
    """

    def __init__(self, package: str) -> None:
        self.package = package

    def _choose(self, base: type[PlugIn], given: Any, info: ValidationInfo) -> PlugIn:
        if isinstance(given, base):
            return given
        if not isinstance(given, dict):
            raise PydanticCustomError("no_section", "no section")
        name = given.get("name")
        kind = find(self.package, name) if isinstance(name, str) else None
        if kind is None:
            kind_of_error = "unknown_name" if "name" in given else "no_name"
            raise PydanticCustomError(kind_of_error, "no plug-in")
        found: PlugIn = kind.__pydantic_validator__.validate_python(given, context=info.context)
        return found

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(partial(self._choose, source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        choices = {name: kind.__pydantic_core_schema__ for name, kind in discover(self.package).items()}
        return handler(core_schema.tagged_union_schema(choices, discriminator="name"))
