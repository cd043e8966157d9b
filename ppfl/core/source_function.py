"""A function in a Python file that a configuration names: told apart by the content of the file, not by its path."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ppfl.core.errors import UserError
from ppfl.core.plugins import refusal
from ppfl.core.source_files import SourceFiles, read_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
    from pydantic.json_schema import JsonSchemaValue


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
