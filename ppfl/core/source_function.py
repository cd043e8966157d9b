"""A function in a Python file that a configuration names: told apart by the content of the file, not by its path."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ppfl.core.errors import UserError
from ppfl.core.plugins import refusal
from ppfl.core.source_files import SourceFiles, read_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
    from pydantic.json_schema import JsonSchemaValue


class UnfitArgumentsError(UserError):
    """Arguments that a function does not take, or some that it needs are missing."""


@dataclass(frozen=True)
class SourceFunction:
    """A function of a file and what that imports from its folder; in YAML "my_models:build", or "nets/mine.py:build".

    Paths are relative to the configuration's folder, told by the validation context `{"folder": Path}`. The files are
    read at once, and imported only when the function is asked for.
    """

    files: SourceFiles
    name: str

    @classmethod
    def find(cls, given: str, folder: Path) -> SourceFunction:
        """Read the file. Raises pydantic's error for a field where there is none, or none with this function."""
        module, _, name = given.rpartition(":")
        if not module or not name.isidentifier():
            raise refusal("", "a file and a function in it, e.g. my_models:build")
        try:
            wanted = Path(module if module.endswith(".py") else f"{module.replace('.', '/')}.py").expanduser()
        except RuntimeError as error:
            raise refusal("", f"an existing file; there is no home {module.split('/')[0]}") from error
        path = (folder / wanted).absolute()
        try:
            contents = read_sources(path, path.parent)
        except UserError as error:
            raise refusal("", f"a Python file; {error}") from error
        if path.name not in contents:
            raise refusal("", f"a function of an existing file; looked for {path}")
        found = list(dict.fromkeys(_bound(ast.parse(contents[path.name]))))
        if name not in found:
            raise refusal("", f"a function of {path}, which has {', '.join(found) or 'none'}")
        return cls(SourceFiles(path.parent, path.stem, contents), name)

    def load(self) -> Callable[..., Any]:
        """Import the file. Raises UserError, with the line, where that fails, or what has the name is no function."""
        found = getattr(self.files.import_module(), self.name, None)
        if not callable(found):
            raise UserError(f"{self.files.path}: {self.name} is no function")
        return found  # type: ignore[no-any-return]

    def bind(self, arguments: Mapping[str, Any], offered: Mapping[str, Any]) -> Callable[[], Any]:
        """Import the file and return the call with these arguments by name, and with those that are offered as far as
        the function asks for them.

        Raises UnfitArgumentsError where they do not suit, UserError as `load` does; the call raises UserError, with the
        line, for whatever goes wrong inside of the function.
        """
        function = self.load()
        try:
            asked = inspect.signature(function).parameters
            known = {**{name: value for name, value in offered.items() if name in asked}, **arguments}
            # before the call, in which the same TypeError could come from inside of the function
            inspect.signature(function).bind(**known)
        except (TypeError, ValueError) as error:
            raise UnfitArgumentsError(f"{self.name}: {error}") from error

        def call() -> Any:
            try:
                return function(**known)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                why = str(error).split("\n", 1)[0]
                raise UserError(f"{self.files.where(error)}: {type(error).__name__}: {why}") from error

        return call

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(given: str, info: ValidationInfo) -> SourceFunction:
            if not given:
                raise PydanticCustomError("empty_path", "no path")
            return cls.find(given, Path((info.context or {}).get("folder", ".")))

        def said(function: SourceFunction, info: Any) -> Any:
            if info.mode == "json":
                return f"{function.files.path}:{function.name}"
            return {"function": function.name, "sha256": function.files.sha256}

        from_text = core_schema.with_info_after_validator_function(validate, core_schema.is_instance_schema(str))
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.plain_serializer_function_ser_schema(said, info_arg=True),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "minLength": 1}


def _bound(tree: ast.Module) -> Iterator[str]:
    """Yield what a file may call by at its top level, whether or not it is a function."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name for alias in names)
