"""A file that a configuration names: looked up in the right folders, told apart by content and not by path."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ppfl.core.plugins import refusal

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
    from pydantic.json_schema import JsonSchemaValue

_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class DataFile:
    """An existing file; in YAML a path, relative to the configuration's folder or to the folder PPFL_DATA names.

    As the type of a field of a settings class it validates a path; the validation context `{"folder": Path}` tells
    where the configuration is (default: the working directory).
    """

    path: Path
    """Absolute."""

    @property
    def sha256(self) -> str:
        """Hash of the content, 64 hexadecimal digits."""
        status = self.path.stat()
        return _sha256(self.path, status.st_size, status.st_mtime_ns)

    @classmethod
    def find(cls, given: str, folder: Path) -> DataFile:
        """Look beside the configuration, then in PPFL_DATA.

        Paths mean what they mean to the file system: `..` after a symbolic link leads to where the folder itself is,
        so none is shortened. Raises pydantic's error for a field, with the places it looked at, when there is no such
        file.
        """
        folders = [folder, *([Path(os.environ["PPFL_DATA"])] if os.environ.get("PPFL_DATA") else [])]
        try:
            wanted = Path(given).expanduser()
        except RuntimeError as error:
            raise refusal("", f"an existing, readable file; there is no home {given.split('/')[0]}") from error
        candidates = [(base / wanted).absolute() for base in folders]
        for candidate in dict.fromkeys(candidates):
            if os.path.isfile(candidate) and os.access(candidate, os.R_OK):  # noqa: PTH113  (no error for any path)
                return cls(candidate)
        places = ", ".join(dict.fromkeys(map(str, candidates)))
        hint = "" if len(folders) > 1 else " (PPFL_DATA, the folder of data sets, is not set)"
        raise refusal("", f"an existing, readable file; looked for {places}{hint}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(given: str, info: ValidationInfo) -> DataFile:
            if not given:
                raise PydanticCustomError("empty_path", "no path")
            return cls.find(given, Path((info.context or {}).get("folder", ".")))

        # a plain text to Python: pydantic's own would refuse names that are not UTF-8
        from_text = core_schema.with_info_after_validator_function(validate, core_schema.is_instance_schema(str))
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda file, info: str(file.path) if info.mode == "json" else {"sha256": file.sha256}, info_arg=True
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "path", "minLength": 1}


@cache
def _sha256(path: Path, size_bytes: int, modified_ns: int) -> str:
    """Hash a file once a process; size and time are there to notice that it changed."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
