"""Configuration files: a mapping of keys to values, and the `--set` that replace some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppfl.config.errors import ConfigError, Finding
from ppfl.core.yaml_text import MAX_DEPTH, YamlError, load_text

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 8 << 20
"""Of a configuration file."""


def parse_yaml(text: str, source: str, *, tell_line: bool = True) -> Any:
    """Return the value that a text holds. Raises ConfigError with `source`:line for what is not YAML."""
    try:
        return load_text(text)
    except YamlError as error:
        line = f":{error.line}" if error.line and tell_line else ""
        raise ConfigError(f"{source}{line}", Finding.text(f"not a YAML text: {error}")) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a file holds. Raises ConfigError for a file that cannot be read or holds no mapping."""
    source = str(path)
    try:
        with path.open("rb") as file:
            # one byte more than allowed tells a file that is too large, also one whose size the system does not say
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(source, Finding.text(f"is larger than {_MAX_BYTES >> 20} MiB; give a YAML file"))
        # with or without the mark that some editors put first
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(source, Finding.text(f"not a YAML text: byte {error.start} is not UTF-8")) from error
    except OSError as error:
        raise ConfigError(source, Finding.text(f"cannot be read: {error.strerror}; give a YAML file")) from error
    value = parse_yaml(text, source)
    if not isinstance(value, dict):
        raise ConfigError(source, Finding("the file", value, "a mapping of keys to values, e.g. `rounds: 200`"))
    return value


class NoSuchPathError(LookupError):
    """A dotted path goes through a value that has no keys; the argument is the path of that value."""


def set_path(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy with the value at a dotted path replaced; sections that are missing are made.

    Raises NoSuchPathError when part of the path is not a mapping.
    """
    head, _, rest = path.partition(".")
    if not rest:
        return {**document, head: value}
    inner = document.get(head)
    if inner is None:
        inner = {}
    if not isinstance(inner, dict):
        raise NoSuchPathError(head)
    try:
        return {**document, head: set_path(inner, rest, value)}
    except NoSuchPathError as error:
        raise NoSuchPathError(f"{head}.{error.args[0]}") from None


def apply_overrides(document: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """Apply `key.path=value` texts, values read as YAML. A key of the grid section may itself have dots.

    Raises ConfigError naming the override.
    """
    for override in overrides:
        path, equals, text = override.partition("=")
        path = path.strip()
        if not equals or not all(path.split(".")):
            raise ConfigError("--set", Finding.text(f"not of the form key.path=value (given {override!r})"))
        if path.count(".") >= MAX_DEPTH:
            what = (
                f"a key of more than {MAX_DEPTH} parts (given {override[:40]!r}…); allowed: a key of the configuration"
            )
            raise ConfigError("--set", Finding.text(what))
        value = _value_of(text, f"--set {override}")
        section, _, grid_key = path.partition(".")
        try:
            if section == "grid" and grid_key:
                document = {**document, "grid": {**_grid_of(document), grid_key: value}}
            else:
                document = set_path(document, path, value)
        except NoSuchPathError as error:
            reason = f"{error.args[0]} has no keys of its own (given {override!r})"
            raise ConfigError("--set", Finding.text(f"{path}: {reason}")) from None
    return document


def _value_of(text: str, source: str) -> Any:
    """Read the value of an override; one with bytes that are not UTF-8, such as a path, is text as it stands."""
    is_utf8 = not any("\ud800" <= character <= "\udfff" for character in text)
    return parse_yaml(text, source, tell_line=False) if is_utf8 else text.strip()


def _grid_of(document: dict[str, Any]) -> dict[str, Any]:
    grid = document.get("grid")
    if grid is None:
        return {}
    if not isinstance(grid, dict):
        raise NoSuchPathError("grid")
    return grid
