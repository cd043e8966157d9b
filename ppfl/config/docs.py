"""The JSON schema of settings with what their fields mean: the text below a field in the source.

pydantic would read the sources of all classes whenever a program starts, for texts that editors alone show.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema

from ppfl.core.plugins import Settings

if TYPE_CHECKING:
    from pydantic_core.core_schema import ModelSchema


class DescribedSchema(GenerateJsonSchema):
    """Describes the properties of every settings class."""

    def model_schema(self, schema: ModelSchema) -> dict[str, Any]:
        """Return the schema of one class."""
        found = super().model_schema(schema)
        # the class itself comes last, so that its own words replace those of a base class
        for base in reversed(schema["cls"].__mro__):
            if issubclass(base, Settings):
                for name, text in _texts(base):
                    key = base.model_fields[name].alias or name if name in base.model_fields else name
                    if key in found.get("properties", {}):
                        found["properties"][key]["description"] = text
        return found


def _texts(settings: type[Settings]) -> list[tuple[str, str]]:
    """Return (field, the text below it) of the fields that a class itself declares."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(settings))).body
    assert isinstance(tree, ast.ClassDef)
    return [
        (field.target.id, inspect.cleandoc(text.value.value))
        for field, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    ]
