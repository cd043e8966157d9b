"""Settings that validate themselves: the base of everything that has a name in a YAML file.

A plug-in is a frozen value: its fields are the keys of its section in the configuration, its methods are the
mathematics. One file in a plug-in folder defines one plug-in, and the file is called what the plug-in is called.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

Example: TypeAlias = Mapping[str, Any]
"""Settings that some plug-in can be tried out with."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""


class Settings(BaseModel):
    """A frozen, strictly typed section of a configuration; unknown keys, NaN and inf are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


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


@cache
def discover(package: str) -> dict[str, type[PlugIn]]:
    """Return {name: class} of the plug-ins in a folder such as "ppfl.algorithms".

    Raises TypeError when a file does not define exactly one plug-in with the name of the file: a mistake of whoever
    wrote the file, not of whoever wrote the configuration.
    """
    found: dict[str, type[PlugIn]] = {}
    for module_info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{module_info.name}")
        classes = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, PlugIn)
            and value.__module__ == module.__name__
            and "name" in value.__annotations__
        ]
        names = [getattr(c.__pydantic_fields__["name"].annotation, "__args__", ("",))[0] for c in classes]
        if names != [module_info.name]:
            raise TypeError(
                f"{module.__file__}: a plug-in file defines exactly one class with "
                f'`name: Literal["{module_info.name}"]`, found {names or "none"}'
            )
        found[module_info.name] = classes[0]
    return found


class ChosenFrom:
    """Annotation of a field that takes any plug-in of a folder: `Annotated[Base, ChosenFrom("ppfl.algorithms")]`."""

    def __init__(self, package: str) -> None:
        self.package = package

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {name: cls.__pydantic_core_schema__ for name, cls in discover(self.package).items()}
        return core_schema.tagged_union_schema(choices, discriminator="name")
