"""The configuration inside a result, as any version wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppfl.core.errors import UserError
from ppfl.core.yaml_text import YamlError, load_text

if TYPE_CHECKING:
    from pathlib import Path


def stored_config(text: object, path: Path) -> dict[str, Any]:
    """Return the configuration that a result at `path` has as text. Raises UserError when it is no mapping."""
    try:
        value = load_text(str(text), as_stored=True)
    except YamlError as error:
        raise UserError(
            f"{path}: its configuration is damaged ({error}); take another copy, or run it again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: its configuration is damaged (no mapping); take another copy, or run it again")
    return value
